"""Random targets computed again with the teacher, and their views rendered again, against what is stored of them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.commits import Commit
from kd_ray.cache.findings import Finding
from kd_ray.cache.recomputed import TOLERANCES, deviation_of, errors
from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.target_set import Output, refuse_other_members
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import ViewStore
from kd_ray.cache.words import permutation, words
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt, ExtractionError, ViewMismatch
from kd_ray.extraction.job import ExtractJob
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.views import AnyView, KeptView, View, ViewRow, check_view, decode_pixels, keep_view

DENSE = 4  # drawing with repeats thrown away is cheap where fewer than one target in this many is wanted
OTHER_TEACHER = (
    "The teacher of this recipe does not give these values: they come from other weights or other pixels than their "
    "identity says, or from a machine that computes otherwise (--tolerance). Extract them into another cache.uri, or "
    "remove the target set (kd-ray cache gc --target-set) and run the recipe again."
)
OTHER_VIEWS = (
    "Restore the image, the decoder and the libraries that the view set records, or build a new view set in another "
    "cache.uri."
)

Target = tuple[int, int]
"""A row of a unit and a view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The readable newest commits of a view set and of outputs of one teacher on it; outputs by path."""

    views_path: str
    views: ViewStore
    view_commits: Mapping[Unit, Commit]
    outputs: Mapping[str, Output]
    commits: Mapping[str, Mapping[Unit, Commit]]

    @property
    def units(self) -> list[Unit]:
        """Those that have views and something of an output."""
        having = {unit for each in self.commits.values() for unit in each}
        return sorted(having & self.view_commits.keys())


@dataclass(kw_only=True)
class Deep:
    """What was found, by path; `worst` is the greatest error of each output in its deviations."""

    num_targets: int = 0
    num_rounded: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))


def draw_targets(commits: Sequence[Commit], count: int, *, key: Sequence[str | int]) -> dict[Unit, list[Target]]:
    """`count` targets, or all where there are fewer, each as likely as any other; `key` decides which."""
    sizes = np.array([commit.num_rows * commit.unit.num_views for commit in commits], np.int64)
    ends = np.cumsum(sizes)
    total = int(sizes.sum())
    if total <= DENSE * count:
        chosen = permutation(key, total)[:count]
    else:
        drawn = (words(key, DENSE * count) % np.uint64(total)).astype(np.int64)
        chosen = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:count]
    found: dict[Unit, list[Target]] = defaultdict(list)
    for number in np.sort(chosen).tolist():
        at = int(np.searchsorted(ends, number, side="right"))
        view, row = divmod(number - int(ends[at] - sizes[at]), commits[at].num_rows)
        found[commits[at].unit].append((row, commits[at].unit.view_start + view))
    return found


class Recomputation:
    """Computes targets of `stored` again, as `job` says they were made."""

    def __init__(
        self,
        job: ExtractJob,
        stored: Stored,
        *,
        corpus: PackedCorpus,
        load: Callable[[], FrozenTeacher],
        tolerance: float | None,
    ) -> None:
        self._job, self._stored, self._corpus = job, stored, corpus
        self._teacher = load()
        self._tolerance = TOLERANCES[job.teacher.precision] if tolerance is None else tolerance
        self._deviations = {
            path: deviation_of(output.statistics(stored.commits[path].values()))
            for path, output in stored.outputs.items()
            if stored.commits[path]
        }

    def check(self, targets: Mapping[Unit, Sequence[Target]], deep: Deep, *, report: Callable[[int], None]) -> None:
        """Add to `deep` what is wrong with `targets`; `report` is told how many more have been looked at.

        Raises:
            BadImage, ShardCorrupt: the corpus cannot be read.
            ExtractionError: the teacher's output is not finite.
        """
        for unit, of_unit in targets.items():
            try:
                pixels = self._pixels(unit, of_unit, deep)
            except CacheCorrupt as error:
                deep.findings[self._stored.views_path].append(self._finding(self._stored.views, str(error), unit))
            else:
                self._compare(unit, of_unit, self._teacher(pixels), deep)
            deep.num_targets += len(of_unit)
            report(len(of_unit))

    def _pixels(self, unit: Unit, targets: Sequence[Target], deep: Deep) -> NDArray[np.uint8]:
        """[N, H, W, 3]: what the teacher saw of each target, after its view was compared with what is stored of it."""
        input = self._job.teacher.input
        problems: list[str] = []
        rendered = []
        for seen, other, stored in self._views(unit, targets):
            sample_id, view_index = stored.sample_id, stored.view_index
            if seen.params != stored.params:
                problems.append(f"sample {sample_id:016x}, view {view_index}: its stored params are not those drawn.")
            try:
                found = [
                    check_view(
                        each,
                        stored.proof,
                        each.params,  # compared above, and told once
                        policy=self._job.policy,
                        sample_id=sample_id,
                        view_index=view_index,
                    )
                    for each in ((seen,) if seen is other else (seen, other))
                ]
                deep.num_rounded += "rounding" in found
            except ViewMismatch as error:
                problems.append(str(error))
            rendered.append(seen.render(input.size_px, input.interpolation))
        if problems:
            told = f"{len(problems)} of {len(targets)} views that were rendered again are off. {problems[0]}"
            finding = self._finding(self._stored.views, f"{told} {OTHER_VIEWS}", unit)
            deep.findings[self._stored.views_path].append(finding)
        return np.stack(rendered)

    def _views(self, unit: Unit, targets: Sequence[Target]) -> Iterator[tuple[AnyView, AnyView, ViewRow]]:
        """Of each target: the view as the teacher saw it, the one that is rendered now, and what is stored of it."""
        store, commit, kept = self._stored.views, self._stored.view_commits[unit], self._job.kept
        ids = self._corpus.read_rows(
            unit.span.shard, unit.span.group_start, unit.span.group_stop, columns=()
        ).sample_ids
        refuse_other_members(store.collection, commit, ids)
        by_view = {view: store.rows(commit, view) for view in {view for _, view in targets}}
        pixels = {view: store.pixels(commit, view, sample_ids=ids) for view in by_view} if kept is not None else {}
        for (row, view_index), replayed in zip(targets, self._replayed(unit, targets), strict=True):
            stored = by_view[view_index][row]
            if kept is None:
                yield replayed, replayed, stored
                continue
            what = f"sample {stored.sample_id:016x}, view {view_index}"
            seen = KeptView(
                params=stored.params,
                pixels_HW3=decode_pixels(pixels[view_index][row], kept, what=what),
                renderer_version=self._job.policy.renderer_version,
            )
            yield seen, keep_view(replayed, kept)[1], stored

    def _replayed(self, unit: Unit, targets: Sequence[Target]) -> Iterator[View]:
        """Each row group is read once: targets come in the order of views, so groups are kept while they last."""
        counts = self._corpus.rows_per_group(unit.span.shard)[unit.span.group_start : unit.span.group_stop]
        starts = np.concatenate([[0], np.cumsum(counts)])
        replays: dict[int, Replay] = {}
        for row, view_index in targets:
            place = int(np.searchsorted(starts, row, side="right")) - 1
            if place not in replays:
                group = unit.span.group_start + place
                columns = columns_for(self._job.policy)
                rows = self._corpus.read_rows(unit.span.shard, group, group + 1, columns=columns)
                replays[place] = Replay(rows, policy=self._job.policy, seed=self._job.view_seed)
            yield replays[place].view(row - int(starts[place]), view_index)

    def _compare(
        self, unit: Unit, targets: Sequence[Target], computed: Mapping[str, NDArray[np.float32]], deep: Deep
    ) -> None:
        for path, output in self._stored.outputs.items():
            commit = self._stored.commits[path].get(unit)
            if commit is None:
                continue
            name = str(output.spec.identity["output"])
            try:
                found = self._errors(path, output, commit, targets, computed[name])
                deep.worst[path] = max(deep.worst.get(path, 0.0), float(found.max()))
                problem = self._problem(output, commit, targets, found)
            except (CacheCorrupt, ExtractionError) as error:
                problem = str(error)
            if problem is not None:
                deep.findings[path].append(self._finding(output, problem, unit))

    def _errors(
        self, path: str, output: Output, commit: Commit, targets: Sequence[Target], computed_N: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """[N]: of each target."""
        ids = output.sample_ids(commit)
        calibration = output.fixed_calibration()
        found = np.empty(len(targets))
        for view_index in sorted({view for _, view in targets}):
            at = [number for number, (_, view) in enumerate(targets) if view == view_index]
            rows = [targets[number][0] for number in at]
            stored = output.read_encoded(commit, view_index=view_index, sample_ids=ids)
            found[at] = errors(
                output.coding,
                {name: array[rows] for name, array in stored.items()},
                computed_N[at],
                calibration=calibration,
                precision=self._job.teacher.precision,
                deviation=self._deviations[path],
                what=f"{path}, unit {commit.unit.id}",
            )
        return found

    def _problem(
        self, output: Output, commit: Commit, targets: Sequence[Target], found: NDArray[np.float64]
    ) -> str | None:
        """A sentence about the worst of those beyond the tolerance; None where there is none."""
        num_off = int((~(found <= self._tolerance)).sum())  # what is not a number is off
        if not num_off:
            return None
        worst = int(found.argmax())
        row, view_index = targets[worst]
        sample_id = int(output.sample_ids(commit)[row])
        return (
            f"unit {commit.unit.id}: {num_off} of {len(targets)} recomputed targets are off, the worst that of sample "
            f"{sample_id:016x}, view {view_index}: {found[worst]:.2g} deviations, tolerance {self._tolerance:g}. "
            f"{OTHER_TEACHER}"
        )

    @staticmethod
    def _finding(entry: ViewStore | Output, problem: str, unit: Unit) -> Finding:
        location = entry.collection.location(entry.collection.folder)
        return Finding(location=location, problem=problem.removeprefix(f"{location}: "), unit=unit)
