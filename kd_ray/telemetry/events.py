"""One JSON line per event: appended to a file beside a run's outputs; in parts where nothing can be appended."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.storage import Storage

PART_EVERY_S = 30.0
FOLDER = "events"


@dataclass(frozen=True)
class EventLog:
    """Appends events to `path`, nowhere if None; a crash tears at most the last line."""

    path: Path | None

    def write(self, event: str, **fields: Any) -> None:
        """Append `{time, event, …fields}`."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(_line(event, fields))

    def close(self) -> None:
        """Nothing is held back."""


@dataclass
class StoredEventLog:
    """Events of a run whose outputs are on an object store, which cannot append: parts of at least PART_EVERY_S.

    `events/<time of the start>-<number>.jsonl` sort in the order of the events. A part is written by the event that
    comes PART_EVERY_S after the last one, and by `close`: a killed run loses what it told since its last part.
    """

    storage: Storage
    clock: Callable[[], float] = time.time
    _held: list[str] = field(default_factory=list, init=False)
    _num_parts: int = field(default=0, init=False)
    _start_s: float = field(default=0.0, init=False)
    _last_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._start_s = self._last_s = self.clock()

    def write(self, event: str, **fields: Any) -> None:
        """Hold `{time, event, …fields}`, and write a part where it is time."""
        self._held.append(_line(event, fields))
        if self.clock() - self._last_s >= PART_EVERY_S:
            self._write_part()

    def close(self) -> None:
        """Write what is held."""
        if self._held:
            self._write_part()

    def _write_part(self) -> None:
        name = f"{FOLDER}/{self._start_s:017.3f}-{self._num_parts:06d}.jsonl"
        self.storage.write(name, "".join(self._held).encode())
        self._held.clear()
        self._num_parts += 1
        self._last_s = self.clock()


def _line(event: str, fields: dict[str, Any]) -> str:
    return json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n"
