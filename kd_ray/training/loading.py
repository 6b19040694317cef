"""Rows, views and targets of spans, loaded in threads before a run comes to them."""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from kd_ray.cache.stream import Window
from kd_ray.corpus.packed import Rows
from kd_ray.errors import CacheIncomplete
from kd_ray.training.views import SpanViews

LOADS_AT_ONCE = 4  # of one worker, over all its lanes
OPEN_WINDOWS = 2  # of one source: the one that is drawn from and the next

TargetKey = tuple[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSpan:
    """The rows of a span in memory, with what the target source keeps of one view of them."""

    rows: Rows
    views: SpanViews
    label_of: Mapping[int, int]
    view_index: int
    targets: Mapping[TargetKey, Mapping[str, NDArray[Any]]]


Sample = tuple[Window, int, tuple[LoadedSpan, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is loaded at once: one view, of one kind, of the span with this index in its source."""

    source: int
    span_index: int
    kind: int
    view_index: int


class Once(Generic[T]):
    """What `make` gives, made by the first thread that asks; after an error the next one tries again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


class Load:
    """One view of a span: a thread of the pool loads it, or whoever needs it before a thread is free."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], LoadedSpan]) -> None:
        self._work = work
        self._ahead: Future[LoadedSpan] = Future()
        self._due: LoadedSpan | None = None
        # the pool keeps what waits in it, which others may have loaded and forgotten meanwhile
        pool.submit(_begin, weakref.ref(self))

    def begin(self) -> None:
        """Load it, unless somebody has."""
        if self._ahead.set_running_or_notify_cancel():
            try:
                self._ahead.set_result(self._work())
            except BaseException as error:  # noqa: BLE001  # carried to where it is due, and raised there
                self._ahead.set_exception(error)

    def result(self) -> LoadedSpan:
        """What was loaded, the same whenever it is asked for; raises what loading does."""
        if self._due is not None:
            return self._due
        # threads that wait for units to come do not hold up what is there
        if not self._ahead.cancelled() and not self._ahead.cancel():
            try:
                return self._ahead.result()
            except CacheIncomplete:
                pass  # asked for too early: it may have been committed since
        self._due = self._work()
        return self._due


def _begin(load: "weakref.ref[Load]") -> None:
    there = load()
    if there is not None:
        there.begin()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWindow:
    """What is loaded, or about to be, of one window: rows by span, and what belongs to one view of a span."""

    window: Window
    rows: dict[int, Once[Rows]] = field(default_factory=dict)
    loads: dict[Place, Load] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A sample that is to come up: its window and its place there."""

    opened: OpenWindow
    place: int


class Loader:
    """Loads spans ahead for all lanes of a worker, LOADS_AT_ONCE at a time and one more where a lane waits for it.

    `places` says what a sample needs, `read_rows` reads the rows of a span, `load` what belongs to a view of it. In
    memory are at most, for each lane and source, the spans of its window and of the one after it, and what the last
    sample referred to.
    """

    def __init__(
        self,
        *,
        places: Callable[[Window, int], tuple[Place, ...]],
        read_rows: Callable[[Place], Rows],
        load: Callable[[Place, Rows], LoadedSpan],
    ) -> None:
        self._places = places
        self._read_rows = read_rows
        self._load = load
        self._pool = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="load")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # an error is told at once, not after the loads that wait for something
        ended = kind is None or issubclass(kind, GeneratorExit)
        self._pool.shutdown(wait=ended, cancel_futures=True)

    def drawn(self, draws: Iterator[tuple[Window, int]]) -> Iterator[Sample]:
        """The samples of one lane as they come, each with what its places hold; raises what loading them does.

        Looks as many samples ahead as the windows have that are open, so that a window is loaded while the one before
        it is drawn from.
        """
        ahead = _Ahead(draws)
        while (sample := self._next(ahead)) is not None:
            yield sample

    def _next(self, ahead: "_Ahead") -> Sample | None:
        # nothing of the sample before, whose window may be over, is referred to meanwhile
        draw = ahead.take(self._begin)
        if draw is None:
            return None
        window = draw.opened.window
        loads = (draw.opened.loads[place] for place in self._places(window, draw.place))
        return window, draw.place, tuple(load.result() for load in loads)

    def _begin(self, draw: Draw) -> None:
        opened = draw.opened
        for place in self._places(opened.window, draw.place):
            if place not in opened.loads:
                rows = opened.rows.setdefault(place.span_index, Once(partial(self._read_rows, place)))
                opened.loads[place] = Load(self._pool, partial(self._loaded, place, rows))

    def _loaded(self, place: Place, rows: Once[Rows]) -> LoadedSpan:
        return self._load(place, rows())


class _Ahead:
    """The samples of one lane that have been looked at, and which windows they are of."""

    def __init__(self, draws: Iterator[tuple[Window, int]]) -> None:
        self._draws = draws
        self._next = next(draws, None)
        self._waiting: deque[Draw] = deque()
        self._opened: dict[int, deque[OpenWindow]] = {}  # by source, the one that is drawn from first

    def take(self, begin: Callable[[Draw], None]) -> Draw | None:
        """The next sample; None after the last one. `begin` gets each when it is first looked at."""
        if self._waiting:
            self._close_before(self._waiting[0].opened)
        while self._next is not None and (not self._waiting or self._may_look_ahead(self._next[0])):
            draw = self._look(*self._next)
            begin(draw)
            self._waiting.append(draw)
            self._next = next(self._draws, None)
        return self._waiting.popleft() if self._waiting else None

    def _may_look_ahead(self, window: Window) -> bool:
        opened = self._opened.get(window.source, deque())
        if len(opened) == OPEN_WINDOWS and opened[-1].window is not window:
            return False
        return len(self._waiting) < sum(len(each[0].window) for each in self._opened.values())

    def _look(self, window: Window, place: int) -> Draw:
        opened = self._opened.setdefault(window.source, deque())
        if not opened or opened[-1].window is not window:
            opened.append(OpenWindow(window=window))
        return Draw(opened=opened[-1], place=place)

    def _close_before(self, current: OpenWindow) -> None:
        """Forget the windows of that source that all samples of have been taken."""
        opened = self._opened[current.window.source]
        while opened[0] is not current:
            opened.popleft()
