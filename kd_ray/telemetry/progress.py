"""What a person sees while a stage works: one bar with rate and time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_S = 10.0


class Meter(Protocol):
    """Counts work done; `note` is shown beside the count (a loss, say)."""

    def update(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Set the count of finished pieces, and the total where it has become known."""


class SilentMeter:
    """A meter that shows nothing, for library use."""

    def update(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Ignore the count: nobody watches."""


@dataclass
class _BarMeter:
    progress: Progress
    task: int

    def update(self, done: int, *, total: int | None = None, note: str = "") -> None:
        self.progress.update(self.task, completed=done, total=total, note=note)  # type: ignore[arg-type]


@dataclass
class _LineMeter:
    console: Console
    label: str
    unit: str
    clock: Callable[[], float]
    start_s: float
    last_s: float
    total: int | None = None
    finished: bool = False

    def update(self, done: int, *, total: int | None = None, note: str = "") -> None:
        self.total = total if total is not None else self.total
        now_s = self.clock()
        # the count of a finished stage is polled on for a while; its line is printed once
        is_known = self.finished if done == self.total else now_s - self.last_s < LINE_EVERY_S
        self.finished = done == self.total
        if is_known:
            return
        self.last_s = now_s
        rate = done / max(now_s - self.start_s, 1e-9)
        left = f", {(self.total - done) / rate:.0f} s left" if self.total and rate else ""
        of_total = f"/{self.total:,}" if self.total else ""
        tail = f", {note}" if note else ""
        self.console.print(
            f"  {self.label}: {done:,}{of_total} {self.unit}, {rate:,.0f}/s{left}{tail}", highlight=False
        )


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s", style="cyan")


@contextmanager
def meter(console: Console, label: str, *, unit: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Meter]:
    """A meter for one stage's work; the bar disappears when the stage is done and its summary line takes over."""
    if not console.is_terminal:
        yield _LineMeter(console, label, unit, clock, start_s=clock(), last_s=clock())
        return
    columns = (
        TextColumn("  {task.description:<9}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _BarMeter(progress, progress.add_task(label, total=None, unit=unit, note=""))
