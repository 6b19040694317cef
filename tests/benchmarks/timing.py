"""Ways to do the same, timed in turns: CPU time of one thread, so that what else the machine does matters little."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Work = Callable[[], object]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of one way: ms an image, one entry per round."""

    cpu_ms: list[float]
    wall_ms: list[float]

    @property
    def cpu(self) -> float:
        """The median."""
        return statistics.median(self.cpu_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Of two ways' CPU times, round by round: both of one round met the same disturbance."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def for_each(items: Iterable[Item], work: Callable[[Item], object]) -> Work:
    """Work on one item after the other, of which nothing is kept: memory that is held back makes page faults."""

    def all_of_them() -> None:
        for item in items:
            work(item)

    return all_of_them


def in_turns(ways: Mapping[str, Work], *, num_images: int, num_rounds: int) -> dict[str, Times]:
    """Each way once over its images, then the next way, in rounds; the first round, a warm-up, does not count."""
    times = {name: Times(cpu_ms=[], wall_ms=[]) for name in ways}
    for round_number in range(num_rounds + 1):
        for name, work in ways.items():
            wall_start_s, cpu_start_s = time.perf_counter(), time.thread_time()
            work()
            cpu_s, wall_s = time.thread_time() - cpu_start_s, time.perf_counter() - wall_start_s
            if round_number:
                times[name].cpu_ms.append(cpu_s / num_images * 1e3)
                times[name].wall_ms.append(wall_s / num_images * 1e3)
    return times


def ratio(ours: Times, theirs: Times) -> Ratio:
    ratios = [a / b for a, b in zip(ours.cpu_ms, theirs.cpu_ms, strict=True)]
    return Ratio(median=statistics.median(ratios), lowest=min(ratios), highest=max(ratios))
