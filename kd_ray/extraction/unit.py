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

from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.target_set import Output
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.views import ViewRow, prove

Pixels = NDArray[np.uint8]
Rendered = tuple[list[ViewRow], Pixels]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """What one unit cost; small enough to travel through the object store."""

    unit_id: str
    num_views: int
    num_forwards: int
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

    def __call__(self, unit: Unit, *, attempt: str) -> UnitReport:
        """Compute and commit whatever of the unit is not committed yet; a teacher runs only if an output is missing.

        Raises:
            ExtractionError: outputs that may not be stored.
            BadImage, ShardCorrupt: the corpus cannot be read.
        """
        start_s = time.perf_counter()
        missing = {name: output for name, output in self._outputs.items() if not output.collection.is_committed(unit)}
        needs_views = not self._view_store.collection.is_committed(unit)
        span = unit.span
        columns = columns_for(self._policy)
        rows = self._corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=columns)
        forwards, wait_s = 0, 0.0
        if missing or needs_views:
            view_rows, values, forwards, wait_s = self._compute(unit, rows, infer=bool(missing))
            # Views first: a unit of targets without the digests of its views could not be checked.
            if needs_views:
                self._view_store.write(unit, view_rows, rows.sample_ids, attempt=attempt)
            for name, output in missing.items():
                output.write(unit, values[name], rows.sample_ids, attempt=attempt)
        return UnitReport(
            unit_id=unit.id,
            num_views=unit.num_views * len(rows.sample_ids),
            num_forwards=forwards,
            seconds=time.perf_counter() - start_s,
            render_wait_s=wait_s,
            outputs_written=len(missing),
        )

    def _compute(
        self, unit: Unit, rows: Rows, *, infer: bool
    ) -> tuple[list[ViewRow], dict[str, NDArray[np.float32]], int, float]:
        """Rows and values are view-major: all rows of the first view, then of the next."""
        num_rows = len(rows.sample_ids)
        forwards_before = self._teacher.num_forwards
        parts: dict[str, list[NDArray[np.float32]]] = {}
        wait_s = 0.0
        rows_per_batch = max(self._batch_size // unit.num_views, 1)
        rendered = self._render(rows, unit, num_ahead=2 * max(rows_per_batch, self._num_threads))
        view_rows: list[list[ViewRow]] = []
        for _ in range(0, num_rows, rows_per_batch):
            batch, waited_s = _gather(rendered, rows_per_batch)
            wait_s += waited_s
            view_rows += [described for described, _ in batch]
            if infer:
                pixels = np.concatenate([pixels_VHWC for _, pixels_VHWC in batch])
                for name, value in self._teacher(pixels).items():
                    parts.setdefault(name, []).append(value.reshape(len(batch), unit.num_views, *value.shape[1:]))
        values = {
            name: np.ascontiguousarray(np.moveaxis(np.concatenate(arrays_NVD), 1, 0))
            for name, arrays_NVD in parts.items()
        }
        forwards = self._teacher.num_forwards - forwards_before
        by_view = [described[view] for view in range(unit.num_views) for described in view_rows]
        return by_view, values, forwards, wait_s

    def _render(self, rows: Rows, unit: Unit, *, num_ahead: int) -> Iterator[Future[Rendered]]:
        """All rows in order, `num_ahead` of them in work: all views of a unit at once may be gigabytes of pixels."""
        replay = Replay(rows, policy=self._policy, seed=self._view_seed)
        in_work: deque[Future[Rendered]] = deque()
        for row in range(len(rows.sample_ids)):
            in_work.append(self._pool.submit(self._render_row, replay, row, int(rows.sample_ids[row]), unit))
            if len(in_work) > num_ahead:
                yield in_work.popleft()
        while in_work:
            yield in_work.popleft()

    def _render_row(self, replay: Replay, row: int, sample_id: int, unit: Unit) -> Rendered:
        """All views of one row, decoded once: what is stored of each, and the pixels [V, H, W, 3] for the teacher."""
        indices = range(unit.view_start, unit.view_stop)
        views = replay.views(row, indices)
        described = [
            ViewRow(
                sample_id=sample_id,
                view_index=index,
                params=view.params,
                proof=prove(view, policy=self._policy),
            )
            for index, view in zip(indices, views, strict=True)
        ]
        return described, np.stack([view.render(self._size.size_px, self._size.interpolation) for view in views])


def _gather(rendered: Iterator[Future[Rendered]], count: int) -> tuple[list[Rendered], float]:
    before_s = time.perf_counter()
    batch = [future.result() for future in islice(rendered, count)]
    return batch, time.perf_counter() - before_s
