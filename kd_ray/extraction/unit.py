"""One unit from packed bytes to committed targets: decode, replay the views, infer, write. Knows no Ray.

Shape letters: N rows, V views, D whatever an output's values are.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.commits import Commit
from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.target_set import Output
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.extraction.unit_views import CommittedViews, Described, NewViews, UnitViews, count_rounded
from kd_ray.teachers.frozen import FrozenTeacher

Pixels = NDArray[np.uint8]
Rendered = tuple[list[Described], Pixels]


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


class UnitExtractor:
    """Computes units of one teacher on one view set; built once per worker, called once per unit."""

    def __init__(
        self,
        teacher: FrozenTeacher,
        *,
        size: Input,
        policy: Policy,
        view_seed: int,
        corpus: PackedCorpus,
        view_store: ViewStore,
        outputs: Mapping[str, Output],
        num_threads: int,
        batch_size: int,
        kept: KeptFormat | None,
        verify_one_in: int,
    ) -> None:
        self._teacher = teacher
        self._size = size
        self._policy = policy
        self._view_seed = view_seed
        self._corpus = corpus
        self._view_store = view_store
        self._outputs = outputs
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="render")
        self._batch_size = batch_size
        self._kept = kept
        self._verify_one_in = verify_one_in

    def __call__(self, unit: Unit, *, attempt: str) -> UnitReport:
        """Compute and commit whatever of the unit is not committed yet; a teacher runs only if an output is missing.

        Raises:
            ExtractionError: outputs that may not be stored.
            BadImage, ShardCorrupt: the corpus cannot be read.
            ViewMismatch, CacheCorrupt: the views that are stored are not those of this corpus, or cannot be read.
        """
        start_s = time.perf_counter()
        missing = {name: output for name, output in self._outputs.items() if not output.collection.is_committed(unit)}
        views_commit = self._view_store.collection.find(unit)
        rows = self._read_rows(unit, with_images=views_commit is None or (bool(missing) and self._kept is None))
        forwards, rounded, wait_s = 0, 0, 0.0
        if missing or views_commit is None:
            views = self._views_of(unit, rows, views_commit)
            described, values, forwards, wait_s = self._compute(unit, rows, views, infer=bool(missing))
            rounded = views.num_rounded
            # Views first: a unit of targets without the digests of its views could not be checked.
            if views_commit is None:
                rounded += self._write_views(unit, described, rows, attempt=attempt)
            for name, output in missing.items():
                output.write(unit, values[name], rows.sample_ids, attempt=attempt)
        return UnitReport(
            unit_id=unit.id,
            num_views=unit.num_views * len(rows.sample_ids),
            num_forwards=forwards,
            num_rounded=rounded,
            seconds=time.perf_counter() - start_s,
            render_wait_s=wait_s,
            outputs_written=len(missing),
        )

    def _read_rows(self, unit: Unit, *, with_images: bool) -> Rows:
        where = unit.span.shard, unit.span.group_start, unit.span.group_stop
        return self._corpus.read_rows(*where, columns=columns_for(self._policy) if with_images else ())

    def _views_of(self, unit: Unit, rows: Rows, committed: Commit | None) -> UnitViews:
        replay = Replay(rows, policy=self._policy, seed=self._view_seed) if rows.images else None
        if committed is None:
            assert replay is not None
            return NewViews(replay, unit, rows.sample_ids, policy=self._policy, kept=self._kept)
        return CommittedViews(
            self._view_store,
            committed,
            rows.sample_ids,
            policy=self._policy,
            replay=replay,
            kept=self._kept,
            verify_one_in=self._verify_one_in,
        )

    def _write_views(self, unit: Unit, described: list[Described], rows: Rows, *, attempt: str) -> int:
        """Commit the views; where another attempt was first, how many of its views differ from these by rounding."""
        pixels = [each.pixels for each in described if each.pixels is not None]
        written = self._view_store.write(
            unit,
            [each.row for each in described],
            rows.sample_ids,
            attempt=attempt,
            pixels=None if self._kept is None else pixels,
        )
        if written:
            return 0
        first = self._view_store.collection.find(unit)
        assert first is not None, "a lost race has a winner"
        return count_rounded(described, self._view_store.rows(first))

    def _compute(
        self, unit: Unit, rows: Rows, views: UnitViews, *, infer: bool
    ) -> tuple[list[Described], dict[str, NDArray[np.float32]], int, float]:
        """Rows and values are view-major: all rows of the first view, then of the next."""
        num_rows = len(rows.sample_ids)
        forwards_before = self._teacher.num_forwards
        parts: dict[str, list[NDArray[np.float32]]] = {}
        wait_s = 0.0
        rows_per_batch = max(self._batch_size // unit.num_views, 1)
        rendered = self._render(views, num_rows, num_ahead=2 * max(rows_per_batch, self._num_threads))
        by_row: list[list[Described]] = []
        for _ in range(0, num_rows, rows_per_batch):
            batch, waited_s = _gather(rendered, rows_per_batch)
            wait_s += waited_s
            by_row += [described for described, _ in batch]
            if infer:
                pixels = np.concatenate([pixels_VHWC for _, pixels_VHWC in batch])
                for name, value in self._teacher(pixels).items():
                    parts.setdefault(name, []).append(value.reshape(len(batch), unit.num_views, *value.shape[1:]))
        values = {
            name: np.ascontiguousarray(np.moveaxis(np.concatenate(arrays_NVD), 1, 0))
            for name, arrays_NVD in parts.items()
        }
        forwards = self._teacher.num_forwards - forwards_before
        by_view = [described[view] for view in range(unit.num_views) for described in by_row if described]
        return by_view, values, forwards, wait_s

    def _render(self, views: UnitViews, num_rows: int, *, num_ahead: int) -> Iterator[Future[Rendered]]:
        """All rows in order, `num_ahead` of them in work: all views of a unit at once may be gigabytes of pixels."""
        in_work: deque[Future[Rendered]] = deque()
        for row in range(num_rows):
            in_work.append(self._pool.submit(self._render_row, views, row))
            if len(in_work) > num_ahead:
                yield in_work.popleft()
        while in_work:
            yield in_work.popleft()

    def _render_row(self, views: UnitViews, row: int) -> Rendered:
        """All views of one row, decoded once: what is to be stored, and the pixels [V, H, W, 3] for the teacher."""
        seen, described = views.of(row)
        return described, np.stack([view.render(self._size.size_px, self._size.interpolation) for view in seen])


def _gather(rendered: Iterator[Future[Rendered]], count: int) -> tuple[list[Rendered], float]:
    before_s = time.perf_counter()
    batch = [future.result() for future in islice(rendered, count)]
    return batch, time.perf_counter() - before_s
