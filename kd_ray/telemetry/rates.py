"""How fast each kind of accelerator works, as its reports come in."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kd_ray.telemetry.units import human_bytes

NO_ACCELERATOR = "CPU"


@dataclass
class _Sum:
    views: int = 0
    seconds: float = 0.0
    teacher_s: float = 0.0


@dataclass
class ExtractionRates:
    """Adds up units; views per second are of all workers of a type together, over the time since the first report."""

    num_units: int
    clock: Callable[[], float] = time.monotonic
    num_done: int = field(default=0, init=False)
    value_bytes: int = field(default=0, init=False)
    worker_s: float = field(default=0.0, init=False)
    _start_s: float = field(default=0.0, init=False)
    _sums: dict[str, _Sum] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._start_s = self.clock()

    def add(self, *, accelerator: str, views: int, seconds: float, teacher_s: float, value_bytes: int) -> None:
        """One more unit."""
        each = self._sums.setdefault(accelerator or NO_ACCELERATOR, _Sum())
        each.views += views
        each.seconds += seconds
        each.teacher_s += teacher_s
        self.num_done += 1
        self.value_bytes += value_bytes
        self.worker_s += seconds

    @property
    def idle_share(self) -> float:
        """Of the time of all workers, that in which no teacher computed."""
        teacher_s = sum(each.teacher_s for each in self._sums.values())
        return 1.0 - min(teacher_s / self.worker_s, 1.0) if self.worker_s > 0 else 0.0

    def views_per_s(self) -> dict[str, float]:
        """By accelerator type."""
        elapsed_s = max(self.clock() - self._start_s, 1e-9)
        return {name: each.views / elapsed_s for name, each in sorted(self._sums.items())}

    def note(self) -> str:
        """In a line, beside a progress bar."""
        speeds = ", ".join(f"{name} {speed:,.0f}/s" for name, speed in self.views_per_s().items())
        return (
            f"{self.num_done:,}/{self.num_units:,} units, {speeds}, teachers idle {100 * self.idle_share:.0f} %, "
            f"{human_bytes(self.value_bytes)}"
        )
