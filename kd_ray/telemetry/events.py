"""One JSON line per event, appended to a file beside a run's outputs."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EventLog:
    """Appends events to `path`, nowhere if None (object stores cannot append); a crash tears at most the last line."""

    path: Path | None

    def write(self, event: str, **fields: Any) -> None:
        """Append `{time, event, …fields}`."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        with self.path.open("a") as file:
            file.write(line + "\n")
