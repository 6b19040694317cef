"""One unit from packed bytes to committed targets: decode, replay the views, infer, write. Knows no Ray.

Shape letters: N rows, V views, D whatever an output's values are.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.commits import Commit
from kd_ray.cache.target_set import Output, SampleIds
from kd_ray.cache.units import Unit
from kd_ray.errors import ExtractionError
from kd_ray.extraction.rendering import FarRendering, OpenRows, Rendered, UnitRenderer
from kd_ray.extraction.unit_views import Described, count_rounded
from kd_ray.teachers.frozen import FrozenTeacher, NotFinite

Result = TypeVar("Result")
# Which generation of a unit (by its id) counts, of an output or of VIEWS, and is written where it is not there; 0, the
# first, where nothing is said.
Generations = Mapping[str, Mapping[str, int]]
VIEWS = "views"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """What one unit cost; small enough to travel through the object store.

    `num_rounded` views were compared with what is stored of them and differ by the rounding of another decoder.
    """

    unit_id: str
    num_views: int
    num_forwards: int
    num_rounded: int
    seconds: float
    render_wait_s: float
    outputs_written: int
    teacher_s: float = 0.0
    value_bytes: int = 0
    accelerator: str = ""

    @property
    def idle_share(self) -> float:
        """Of the unit's time, that in which the teacher did not compute: it waited for views, or for the storage."""
        return 1.0 - min(self.teacher_s / self.seconds, 1.0) if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One of the teachers of a worker: its outputs, and which of the renderer's sizes it sees."""

    teacher: FrozenTeacher
    outputs: Mapping[str, Output]
    calibrating: Unit | None
    generations: Generations
    size_index: int = 0

    def generation(self, name: str, unit: Unit) -> int:
        """Which generation of a unit counts, of an output or of VIEWS."""
        return self.generations.get(name, {}).get(unit.id, 0)

    def missing(self, unit: Unit) -> dict[str, Output]:
        """The outputs of a unit that are not committed."""
        return {
            name: output
            for name, output in self.outputs.items()
            if not output.collection.is_committed(unit, generation=self.generation(name, unit))
        }


Missing = Mapping[int, Mapping[str, Output]]
"""By the number of a seat: what of a unit its teacher has to compute."""
Values = dict[int, dict[str, NDArray[np.float32]]]
"""By the number of a seat and the output: [V, N, ...]."""


class UnitExtractor:
    """Computes units of the teachers in `seats` on one view set; built once per worker, called once per unit.

    `renderer` renders views in threads here, or `far` elsewhere where it is given; an image is decoded once for all
    teachers, a view rendered once for each size.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        *,
        renderer: UnitRenderer,
        num_threads: int,
        batch_size: int,
        far: FarRendering | None = None,
    ) -> None:
        self._seats = tuple(seats)
        self._renderer = renderer
        self._view_store = renderer.view_store
        self._kept = renderer.kept
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="render")
        self._batch_size = batch_size
        self._far = far
        self._teacher_s: dict[int, float] = {}  # of the unit in hand, by the number of a seat

    def __call__(self, unit: Unit, *, attempt: str) -> UnitReport:
        """`for_seats` of the first teacher, where there is one."""
        return self.for_seats(unit, (0,), attempt=attempt)[0]

    def for_seats(self, unit: Unit, chosen: Sequence[int], *, attempt: str) -> list[UnitReport]:
        """Compute and commit whatever of the unit is not committed yet, for the `chosen` seats (by number); a teacher
        runs only if an output of it is missing.

        Raises:
            ExtractionError: outputs that may not be stored.
            BadImage, ShardCorrupt: the corpus cannot be read.
            ViewMismatch, CacheCorrupt: the views that are stored are not those of this corpus, or cannot be read.
        """
        start_s = time.perf_counter()
        self._teacher_s = dict.fromkeys(chosen, 0.0)
        missing = {number: outputs for number in chosen if (outputs := self._seats[number].missing(unit))}
        views_commit = self._view_store.collection.find(unit, generation=self._generation_of_views(unit))
        if not missing and views_commit is not None:
            done = _Done(num_rows=len(self._renderer.sample_ids(unit.span)))
        else:
            done = self._do(unit, missing, views_commit, attempt=attempt)
        seconds = (time.perf_counter() - start_s) / len(chosen)
        return [
            UnitReport(
                unit_id=unit.id,
                num_views=unit.num_views * done.num_rows,
                num_forwards=done.forwards.get(number, 0),
                num_rounded=done.rounded if place == 0 else 0,  # views are compared once for all
                seconds=seconds,
                render_wait_s=done.wait_s / len(chosen),
                outputs_written=len(missing.get(number, {})),
                teacher_s=self._teacher_s[number],
                value_bytes=unit.num_views
                * done.num_rows
                * sum(output.coding.bytes_per_view for output in missing.get(number, {}).values()),
            )
            for place, number in enumerate(chosen)
        ]

    @property
    def batch_sizes(self) -> list[int]:
        """Views that go through each teacher at once, now."""
        return [seat.teacher.batch_size for seat in self._seats]

    def _do(self, unit: Unit, missing: Missing, views_commit: Commit | None, *, attempt: str) -> "_Done":
        forwards_before = [seat.teacher.num_forwards for seat in self._seats]
        for number, outputs in missing.items():
            self._calibrate(number, outputs)
        needs_images = views_commit is None or self._kept is None
        source = self._open(unit, views_commit, needs_images=needs_images)
        described, values, wait_s = self._compute(unit, source, tuple(missing))
        rounded = source.num_rounded
        # Views first: a unit of targets without the digests of its views could not be checked.
        if views_commit is None:
            rounded += self._write_views(unit, described, source.sample_ids, attempt=attempt)
        for number, outputs in missing.items():
            for name, output in outputs.items():
                generation = self._seats[number].generation(name, unit)
                output.write(unit, values[number][name], source.sample_ids, attempt=attempt, generation=generation)
        return _Done(
            num_rows=len(source.sample_ids),
            forwards={number: self._seats[number].teacher.num_forwards - forwards_before[number] for number in missing},
            rounded=rounded,
            wait_s=wait_s,
        )

    def _calibrate(self, number: int, missing: Mapping[str, Output]) -> None:
        """Fix what must be before a value is stored, from the same views whichever unit comes first."""
        waiting = {name: output for name, output in missing.items() if output.must_be_calibrated()}
        if not waiting:
            return
        unit = self._seats[number].calibrating
        assert unit is not None, "a view set with a missing unit has a first one"
        _, values, _ = self._compute(unit, self._open(unit, None, needs_images=True), (number,))
        for name, output in waiting.items():
            output.calibrate(values[number][name])

    def _open(self, unit: Unit, committed: Commit | None, *, needs_images: bool) -> "_NearRows | _FarRows":
        if self._far is not None and needs_images:
            return _FarRows(self._renderer, self._far, unit, committed)
        opened = self._renderer.open(unit, committed, with_images=needs_images)
        return _NearRows(opened, self._pool)

    def _write_views(self, unit: Unit, described: list[Described], sample_ids: SampleIds, *, attempt: str) -> int:
        """Commit the views; where another attempt was first, how many of its views differ from these by rounding."""
        generation = self._generation_of_views(unit)
        pixels = [each.pixels for each in described if each.pixels is not None]
        written = self._view_store.write(
            unit,
            [each.row for each in described],
            sample_ids,
            attempt=attempt,
            pixels=None if self._kept is None else pixels,
            generation=generation,
        )
        if written:
            return 0
        first = self._view_store.collection.find(unit, generation=generation)
        assert first is not None, "a lost race has a winner"
        return count_rounded(
            described,
            self._view_store.rows(first),
            policy=self._renderer.policy,
            views=lambda: self._renderer.open(unit, None, with_images=True).views,
        )

    def _generation_of_views(self, unit: Unit) -> int:
        return self._seats[0].generation(VIEWS, unit)

    def _compute(
        self, unit: Unit, source: "_NearRows | _FarRows", numbers: Sequence[int]
    ) -> tuple[list[Described], Values, float]:
        """Rows and values are view-major: all rows of the first view, then of the next."""
        num_rows = len(source.sample_ids)
        parts: dict[tuple[int, str], list[NDArray[np.float32]]] = {}
        wait_s = 0.0
        rows_per_batch = max(self._batch_size // unit.num_views, 1)
        rendered = source.rendered(num_ahead=2 * max(rows_per_batch, self._num_threads))
        by_row: list[list[Described]] = []
        for start in range(0, num_rows, rows_per_batch):
            batch, waited_s = _gather(rendered, rows_per_batch)
            wait_s += waited_s
            by_row += [described for described, _ in batch]
            for number in numbers:
                sample_ids = source.sample_ids[start : start + len(batch)]
                for name, value in self._infer(number, unit, batch, sample_ids).items():
                    parts.setdefault((number, name), []).append(
                        value.reshape(len(batch), unit.num_views, *value.shape[1:])
                    )
        values: Values = {number: {} for number in numbers}
        for (number, name), arrays_NVD in parts.items():
            values[number][name] = np.ascontiguousarray(np.moveaxis(np.concatenate(arrays_NVD), 1, 0))
        by_view = [described[view] for view in range(unit.num_views) for described in by_row if described]
        return by_view, values, wait_s

    def _infer(
        self, number: int, unit: Unit, batch: Sequence[Rendered], sample_ids: SampleIds
    ) -> Mapping[str, NDArray[np.float32]]:
        seat = self._seats[number]
        pixels = np.concatenate([sizes[seat.size_index] for _, sizes in batch])
        before_s = time.perf_counter()
        try:
            return seat.teacher(pixels)
        except NotFinite as error:
            row, view = divmod(error.rows[0], unit.num_views)
            raise ExtractionError(
                f"unit {unit.id}, sample {int(sample_ids[row]):016x}, view {unit.view_start + view}: {error}"
            ) from error
        finally:
            self._teacher_s[number] += time.perf_counter() - before_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What a unit has cost; forward passes by the number of a seat."""

    num_rows: int
    forwards: Mapping[int, int] = field(default_factory=dict)
    rounded: int = 0
    wait_s: float = 0.0


class _NearRows:
    """A unit whose rows are rendered in threads of this process."""

    def __init__(self, opened: OpenRows, pool: ThreadPoolExecutor) -> None:
        self._opened, self._pool = opened, pool
        self.sample_ids = opened.sample_ids

    @property
    def num_rounded(self) -> int:
        return self._opened.views.num_rounded

    def rendered(self, *, num_ahead: int) -> Iterator[Rendered]:
        """All rows in order, `num_ahead` of them in work: all views of a unit at once may be gigabytes of pixels."""
        rows = range(len(self.sample_ids))
        submitted = (self._pool.submit(self._opened.render, row) for row in rows)
        return (future.result() for future in _ahead(submitted, num_ahead))


class _FarRows:
    """A unit whose rows are rendered part by part on other workers."""

    def __init__(self, renderer: UnitRenderer, far: FarRendering, unit: Unit, committed: Commit | None) -> None:
        self._renderer, self._far, self._unit, self._committed = renderer, far, unit, committed
        self.sample_ids = renderer.sample_ids(unit.span)
        self.num_rounded = 0

    def rendered(self, *, num_ahead: int) -> Iterator[Rendered]:
        """All rows in order; as many parts in work as `far` allows, whatever `num_ahead` says of rows."""
        parts = self._renderer.parts(self._unit)
        submitted = (self._far.submit(self._unit, self._committed, part) for part in parts)
        for future in _ahead(submitted, self._far.max_tasks - 1):
            rows, num_rounded = future.result()
            self.num_rounded += num_rounded
            yield from rows


def _ahead(submitted: Iterator[Future[Result]], num_ahead: int) -> Iterator[Future[Result]]:
    """Futures in their order, `num_ahead` more than the one given out being in work."""
    in_work: deque[Future[Result]] = deque()
    for future in submitted:
        in_work.append(future)
        if len(in_work) > num_ahead:
            yield in_work.popleft()
    while in_work:
        yield in_work.popleft()


def _gather(rendered: Iterator[Rendered], count: int) -> tuple[list[Rendered], float]:
    before_s = time.perf_counter()
    batch = list(islice(rendered, count))
    return batch, time.perf_counter() - before_s
