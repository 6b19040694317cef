"""Loss terms and speed between two logs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Metrics = dict[str, float]


@dataclass(slots=True, kw_only=True)
class Window:
    """Loss terms and times since the last log."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    wait_s: float = 0.0
    start_s: float = field(default_factory=time.perf_counter)

    def add(self, total: Tensor, terms: Mapping[str, Tensor], *, samples: int, wait_s: float) -> None:
        """One more step: its loss, the terms of that, how many images it had and how long it waited for them."""
        for name, value in {"loss": total.detach(), **terms}.items():
            self.terms[name] = self.terms[name] + value if name in self.terms else value
        self.steps += 1
        self.samples += samples
        self.wait_s += wait_s

    def metrics(self, learning_rate: float) -> Metrics:
        """Means over the steps, and speed."""
        elapsed_s = time.perf_counter() - self.start_s
        means = {name: float(value) / self.steps for name, value in self.terms.items()}
        speed = {"images_per_s_per_worker": self.samples / elapsed_s, "data_wait": self.wait_s / elapsed_s}
        return {**means, **speed, "learning_rate": learning_rate}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; `Window(**state)` goes on, timed anew."""
        return {"terms": dict(self.terms), "steps": self.steps}
