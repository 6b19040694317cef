"""Features of files as the targets of one view set: all looked at first, then committed unit by unit.

Shape letters: N samples, V views, D whatever an output's values are.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.calibration import calibrating_unit
from kd_ray.cache.target_set import Output, SampleIds
from kd_ray.cache.units import Span, Unit
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CorpusError
from kd_ray.extraction.features import BadFeatures, Features
from kd_ray.extraction.rendering import UnitRenderer
from kd_ray.storage import redacted

RANKS = {"summary": 1, "logits": 1, "spatial": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a file holds: `output`, one view or `num_views` along the first axis; `grid` (height, width) of tokens."""

    output: str
    num_views: int
    grid: tuple[int, int] | None

    def of_views(self, values: NDArray[np.float32], *, file: str) -> NDArray[np.float32]:
        """[V, D]: one sample's values by view.

        Raises:
            BadFeatures: they have another number of axes, views or tokens.
        """
        values_VD = values[None] if self.num_views == 1 else values
        rank = 2 if self.grid is not None else RANKS[self.output]
        axes = ("views, " if self.num_views > 1 else "") + {1: "channels", 2: "tokens, channels"}.get(
            rank, "height, width, channels"
        )
        if values_VD.ndim != rank + 1 or len(values_VD) != self.num_views:
            raise BadFeatures("of another shape", f"{file}: {list(values.shape)}, expected [{axes}]")
        if self.grid is None:
            return values_VD
        height, width = self.grid
        if values_VD.shape[1] != height * width:
            raise BadFeatures(
                "of another shape",
                f"{file}: {values_VD.shape[1]} tokens, the grid {height}x{width} has {height * width}",
            )
        return values_VD.reshape(self.num_views, height, width, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All files looked at: `digest` over them, the shape of one view's values, and the digest of each sample's."""

    digest: str
    shape: tuple[int, ...]
    digests: Mapping[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Reads the features of samples of a packed corpus."""

    corpus: PackedCorpus
    features: Features
    layout: Layout

    def survey(self, spans: Iterable[Span], *, report: Callable[[int], None]) -> Survey:
        """Look at the file of every sample; `report` is told how many more have been.

        Raises:
            CorpusError: some cannot be used: how many of each kind of mistake, and the first of each.
        """
        mistakes = _Mistakes()
        digests: dict[int, bytes] = {}
        first: tuple[str, tuple[int, ...]] | None = None
        for span in spans:
            ids, locations = self._members(span)
            for sample_id, location in zip(ids.tolist(), locations, strict=True):
                try:
                    values_VD = self._read(location)
                except BadFeatures as error:
                    mistakes.add(error)
                    continue
                first = first or (location, values_VD.shape[1:])
                if values_VD.shape[1:] == first[1]:
                    digests[sample_id] = _digest(values_VD)
                else:
                    what = f"{location}: {list(values_VD.shape[1:])}, that of {first[0]} is {list(first[1])}"
                    mistakes.add(BadFeatures("of another shape", what))
            report(len(ids))
        if mistakes.count:
            raise CorpusError(f"{redacted(self.features.storage.uri)}: {mistakes}")
        assert first is not None, "an opened corpus has training samples"
        whole = hashlib.sha256()
        for sample_id in sorted(digests):
            whole.update(sample_id.to_bytes(8, "big") + digests[sample_id])
        return Survey(digest=whole.hexdigest(), shape=first[1], digests=digests)

    def values(self, unit: Unit, survey: Survey) -> tuple[NDArray[np.float32], SampleIds]:
        """[V, N, D] of a unit, and its samples.

        Raises:
            CorpusError: a file has changed since it was looked at.
        """
        ids, locations = self._members(unit.span)
        rows = []
        for sample_id, location in zip(ids.tolist(), locations, strict=True):
            try:
                values_VD = self._read(location)
            except BadFeatures as error:
                raise _changed(location) from error
            if _digest(values_VD) != survey.digests[sample_id]:
                raise _changed(location)
            rows.append(values_VD[unit.view_start : unit.view_stop])
        return np.ascontiguousarray(np.stack(rows, axis=1)), ids

    def _members(self, span: Span) -> tuple[SampleIds, list[str]]:
        groups = span.shard, span.group_start, span.group_stop
        return self.corpus.read_rows(*groups, columns=()).sample_ids, self.corpus.locations(*groups)

    def _read(self, location: str) -> NDArray[np.float32]:
        place = self.features.place(location)
        return self.layout.of_views(self.features.read(place), file=place.file)


def import_unit(
    unit: Unit, *, importer: Importer, survey: Survey, renderer: UnitRenderer, output: Output, attempt: str
) -> None:
    """Commit the views of a unit where they are not, and its values; what is committed already stands."""
    store = renderer.view_store
    if store.collection.find(unit) is None:
        opened = renderer.open(unit, None, with_images=True)
        by_row = [opened.views.of(row)[1] for row in range(len(opened.sample_ids))]
        described = [each[view] for view in range(unit.num_views) for each in by_row]
        pixels = [each.pixels for each in described if each.pixels is not None]
        store.write(
            unit,
            [each.row for each in described],
            opened.sample_ids,
            attempt=attempt,
            pixels=None if renderer.kept is None else pixels,
        )
    if not output.collection.is_committed(unit):
        values_VND, sample_ids = importer.values(unit, survey)
        output.write(unit, values_VND, sample_ids, attempt=attempt)


def calibrate(first: Unit, *, importer: Importer, survey: Survey, output: Output) -> None:
    """Fix the calibration where the codec needs one, from the same views as in extraction."""
    if output.must_be_calibrated():
        values_VND, _ = importer.values(calibrating_unit(first), survey)
        output.calibrate(values_VND)


@dataclass
class _Mistakes:
    """Counts by kind, with the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, str] = field(default_factory=dict)

    def add(self, error: BadFeatures) -> None:
        self.counts[error.kind] = self.counts.get(error.kind, 0) + 1
        self.firsts.setdefault(error.kind, str(error))

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        told = "; ".join(f"{count:,} {kind}, the first is {self.firsts[kind]}" for kind, count in self.counts.items())
        return (
            f"{self.count:,} samples have no features that can be imported: {told}. Nothing was written. Give every "
            "training sample one file of finite floats of one shape; files are read without executing anything."
        )


def _digest(values: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(repr(values.shape).encode() + values.astype("<f4").tobytes()).digest()


def _changed(location: str) -> CorpusError:
    return CorpusError(
        f"{location}: its features have changed since they were looked at. Import again once nothing writes them."
    )
