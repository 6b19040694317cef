"""Where workers write how far they are, and the driver reads it to draw the bar."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Standing:
    """Progress: images done of all, and a note for people."""

    done: int
    total: int
    note: str


class ProgressBoard:
    """A plain class; `watched_board` makes one of it remote."""

    def __init__(self) -> None:
        self._standing = Standing(0, 0, "")
        self._lines: list[str] = []

    def write(self, standing: Standing) -> None:
        """Replace what stands."""
        self._standing = standing

    def read(self) -> Standing:
        """What stands."""
        return self._standing

    def tell(self, line: str) -> None:
        """A line for people, which is shown once."""
        self._lines.append(line)

    def told(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


class watched_board:  # noqa: N801  # reads as what it is: with watched_board(on_progress) as board
    """A remote board for the time of a block, read by a thread that tells `on_progress`, and `on_line` of new lines."""

    def __init__(
        self, on_progress: Callable[[Standing], None], *, on_line: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._on_progress = on_progress
        self._on_line = on_line
        self._stop = threading.Event()
        self._board: Any = ray.remote(num_cpus=0)(ProgressBoard).remote()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self._board

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        ray.kill(self._board)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._look()
        self._look()

    def _look(self) -> None:
        try:
            standing, lines = ray.get([self._board.read.remote(), self._board.told.remote()], timeout=POLL_S)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return  # the board is only for show: it may still be starting, or its node be gone
        for line in lines:
            self._on_line(line)
        if standing.total:
            self._on_progress(standing)
