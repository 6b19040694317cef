"""What the cache must hold for a run, and what of it is missing. Reads commits; computes and writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from kd_ray.cache.calibration import calibrating_unit
from kd_ray.cache.codecs import Coding
from kd_ray.cache.plan import MAX_OBJECT_BYTES, Grid, choose_grid, missing_units, spans_of, wanted_units
from kd_ray.cache.spec import Spec, output_spec, target_set_spec
from kd_ray.cache.target_set import find_output, under_its_first_name
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import find_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import CorpusAddress, PackedCorpus
from kd_ray.corpus.source import SplitName
from kd_ray.errors import ExtractionError, RecipeError
from kd_ray.extraction.job import ExtractJob
from kd_ray.extraction.masks import refuse_without_masks
from kd_ray.extraction.unit import VIEWS
from kd_ray.teachers.identity import teacher_identity
from kd_ray.views import max_kept_bytes, view_set_identity

MAX_UNIT_BYTES = 4 * MAX_OBJECT_BYTES  # a worker holds a unit several times over


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTeacher:
    """A teacher whose weights exist: what decides its targets, and the shape of each output per view."""

    name: str
    config: Teacher
    num_classes: int | None
    weights_uri: str | None
    weights_fingerprint: str
    shapes: Mapping[str, tuple[int, ...]]
    num_parameters: int
    kind_shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    """Those of `shapes` by kind of view, where the policy has kinds."""

    def of_kind(self, policy: Policy, kind: str) -> "KnownTeacher":
        """The teacher as it sees views of one kind."""
        return replace(
            self,
            config=self.config.model_copy(update={"input": self.config.input.of_kind(policy, kind)}),
            shapes=self.kind_shapes.get(kind, self.shapes),
            kind_shapes={},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSetPlan:
    """Some views of one split, cut into units."""

    split: SplitName
    policy: Policy
    seed: int
    num_views: int
    kept: KeptFormat | None
    spec: Spec
    grid: Grid
    rows_of: Mapping[Span, int]
    units: tuple[Unit, ...]

    @property
    def spans(self) -> list[Span]:
        """All spans of the split."""
        return list(self.rows_of)

    def views_in(self, units: Sequence[Unit]) -> int:
        """How many views the units hold."""
        return sum(self.rows_of[unit.span] * unit.num_views for unit in units)

    @property
    def kept_bytes_per_view(self) -> int:
        """Bytes of one view's stored pixels: exact for raw, at most for the others, 0 where none are kept."""
        return 0 if self.kept is None else max_kept_bytes(self.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """One teacher on one view set: the units it takes, and those in which an output or the views are missing."""

    job: ExtractJob
    view_set: ViewSetPlan
    missing: tuple[Unit, ...]
    forwards_missing: int
    bytes_per_view: Mapping[str, int]

    @property
    def forwards_total(self) -> int:
        """Forward passes of the whole target set."""
        return self.view_set.views_in(self.view_set.units)

    def committed_bytes(self) -> int:
        """Bytes on storage of the units that are committed now."""
        total = 0
        for spec in self.job.outputs.values():
            output = find_output(self.job.cache_uri, self.job.target_set, spec)
            commits = output.collection.commits(self.view_set.units) if output is not None else {}
            total += sum(each.num_bytes for each in commits.values())
        return total


def bytes_per_view(teacher: Teacher, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Stored bytes of each output the recipe asks for."""
    outputs = teacher.outputs
    return {name: Coding.of(outputs.stored_as(name), shapes[name]).bytes_per_view for name in outputs.names()}


def plan_view_set(
    corpus: PackedCorpus,
    *,
    split: SplitName,
    policy: Policy,
    seed: int,
    num_views: int,
    cache: CacheSettings,
    widest_bytes_per_view: int,
    kept: KeptFormat | None = None,
) -> ViewSetPlan:
    """The units of a view set; where it exists already, its own grid and blocks are kept.

    `widest_bytes_per_view` is that of the teachers' outputs; the pixels that are `kept` may be wider.

    Raises:
        CorpusError: the policy needs masks, and a sample has none whose views are still to be drawn.
        ExtractionError: one unit of kept pixels would be too large.
    """
    spec = view_set_spec(policy, seed=seed, corpus=corpus, split=split, kept=kept)
    widest = widest_with_pixels(widest_bytes_per_view, kept)
    grid = wanted_grid(corpus, split=split, cache=cache, widest_bytes_per_view=widest)
    store = find_view_store(cache.uri, spec)
    if store is not None:
        _refuse_other_grid(store.grid, cache, where=f"{cache.uri}/views/{spec.folder}")
        grid = store.grid
    groups = {shard.name: shard.rows_per_group for shard in corpus.shards(split)}
    spans = spans_of({name: len(rows) for name, rows in groups.items()}, unit_row_groups=grid.unit_row_groups)
    existing = [] if store is None else store.units_for(spans, num_views=num_views)
    units = tuple(wanted_units(spans, num_views=num_views, grid=grid, existing=existing))
    refuse_without_masks(corpus, {unit.span for unit in missing_units(units, existing)}, policy=policy)
    plan = ViewSetPlan(
        split=split,
        policy=policy,
        seed=seed,
        num_views=num_views,
        kept=kept,
        spec=spec,
        grid=grid,
        rows_of={span: sum(groups[span.shard][span.group_start : span.group_stop]) for span in spans},
        units=units,
    )
    largest = _largest_unit(plan) * plan.kept_bytes_per_view
    if largest > MAX_UNIT_BYTES:
        raise ExtractionError(
            f"views.pixels_size_px: one unit of kept pixels would be up to {largest:,} bytes, more than "
            f"{MAX_UNIT_BYTES:,} ({grid}). Give a smaller views.pixels_size_px, another pixels_codec, or smaller "
            "cache.unit_row_groups, cache.unit_views and corpus.row_group_size on a new cache."
        )
    return plan


def view_set_spec(
    policy: Policy, *, seed: int, corpus: PackedCorpus, split: SplitName, kept: KeptFormat | None
) -> Spec:
    """What the views of `policy`, which has no kinds, are on one split."""
    masks_id = corpus.masks_id(split) if policy.reads_masks else None
    identity = view_set_identity(
        policy, seed=seed, corpus_id=corpus.corpus_id, split=split, masks_id=masks_id, kept=kept
    )
    return Spec(name=f"{policy.name}-{split}", identity=identity)


def widest_with_pixels(widest_bytes_per_view: int, kept: KeptFormat | None) -> int:
    """Of the teachers' outputs and the kept pixels."""
    return max(widest_bytes_per_view, 0 if kept is None else max_kept_bytes(kept))


def wanted_grid(corpus: PackedCorpus, *, split: SplitName, cache: CacheSettings, widest_bytes_per_view: int) -> Grid:
    """How a view set that does not exist yet is cut."""
    return choose_grid(
        widest_bytes_per_view=widest_bytes_per_view,
        row_group_size=max((max(shard.rows_per_group) for shard in corpus.shards(split)), default=1),
        shard_row_groups=max((len(shard.rows_per_group) for shard in corpus.shards(split)), default=1),
        unit_row_groups=cache.unit_row_groups,
        unit_views=cache.unit_views,
    )


def _largest_unit(view_set: ViewSetPlan) -> int:
    """Views in the largest unit."""
    return max((view_set.rows_of[unit.span] * unit.num_views for unit in view_set.units), default=0)


def _refuse_other_grid(grid: Grid, cache: CacheSettings, *, where: str) -> None:
    for key, found in (("unit_row_groups", grid.unit_row_groups), ("unit_views", grid.unit_views)):
        wanted = getattr(cache, key)
        if wanted is not None and wanted != found:
            raise RecipeError(
                f"cache.{key}: got {wanted}, but {where} was cut with {found} when it was created, for all teachers. "
                f"Remove cache.{key}, or use another cache.uri."
            )


def _refuse_huge_units(view_set: ViewSetPlan, sizes: Mapping[str, int], *, teacher: str) -> None:
    for name, size in sizes.items():
        largest = _largest_unit(view_set) * size
        if largest > MAX_UNIT_BYTES:
            raise ExtractionError(
                f"teacher {teacher}: one unit of its {name} would be {largest:,} bytes, more than {MAX_UNIT_BYTES:,}: "
                f"the views were cut for narrower outputs ({view_set.grid}). Use another cache.uri or views.seed, or "
                "smaller cache.unit_row_groups and cache.unit_views on a new cache."
            )


def _refuse_too_many_kept(teacher: KnownTeacher, outputs: Sequence[str]) -> None:
    for name in outputs:
        k, num_classes = teacher.config.outputs.stored_as(name).k, teacher.shapes[name][-1]
        if k is not None and k >= num_classes:
            raise RecipeError(
                f"teacher {teacher.name}: outputs.{name}.k is {k}, but there are {num_classes} classes. Give a smaller "
                "k, or codec: uint8 or float16, which keep all."
            )


def _refuse_too_few_for_basis(coding: Coding, num_views: int, *, what: str) -> None:
    num_tokens, num_channels = num_views * prod(coding.shape[:-1]), coding.shape[-1]
    if coding.explained_variance is not None and num_views and num_tokens <= num_channels:
        raise RecipeError(
            f"{what}: it is found from the first {num_views:,} views, whose {num_tokens:,} vectors are too few for "
            f"{num_channels:,} channels: more of them than channels are needed. Remove basis, or use more views "
            "(up to 4 count) or a larger corpus.row_group_size."
        )


def _views_of_one_group(corpus: PackedCorpus, split: SplitName, unit: Unit) -> int:
    groups = {shard.name: shard.rows_per_group for shard in corpus.shards(split)}
    return groups[unit.span.shard][unit.span.group_start] * unit.num_views


def plan_targets(
    teacher: KnownTeacher,
    view_set: ViewSetPlan,
    *,
    corpus: PackedCorpus,
    cache_uri: str,
    outputs: Sequence[str],
    verify_one_in: int,
) -> TargetPlan:
    """What `teacher` has to compute for `outputs` of `view_set`; of views that are stored already it compares one in
    `verify_one_in`.

    Raises:
        FingerprintMismatch: a folder of the cache does not hold what its name says.
        RecipeError: as many of the logits are to be kept as there are, or too few views show what a basis is to be.
    """
    identity = teacher_identity(
        teacher.config, weights_fingerprint=teacher.weights_fingerprint, num_classes=teacher.num_classes
    )
    target_set = target_set_spec(
        teacher.name, teacher=identity, view_set_fingerprint=view_set.spec.fingerprint, corpus_id=corpus.corpus_id
    )
    target_set = under_its_first_name(cache_uri, target_set)
    specs = {
        name: output_spec(
            name,
            coding=Coding.of(teacher.config.outputs.stored_as(name), teacher.shapes[name]),
            stage=teacher.config.outputs.spatial_stage if name == "spatial" else None,
            pool=teacher.config.outputs.stored_as(name).pool,
            source=teacher.config.outputs.source_of(name),
        )
        for name in outputs
    }
    _refuse_too_many_kept(teacher, outputs)
    sizes = {name: size for name, size in bytes_per_view(teacher.config, teacher.shapes).items() if name in outputs}
    _refuse_huge_units(view_set, sizes, teacher=teacher.name)
    standing = _standing(teacher.name, view_set, specs, corpus=corpus, cache_uri=cache_uri, target_set=target_set)
    return TargetPlan(
        job=ExtractJob(
            teacher_name=teacher.name,
            teacher=teacher.config.model_copy(update={"outputs": teacher.config.outputs.only(outputs)}),
            num_classes=teacher.num_classes,
            weights_uri=teacher.weights_uri,
            weights_fingerprint=teacher.weights_fingerprint,
            # overrides decide a view by nothing but masks
            corpus=corpus.address if view_set.policy.reads_masks else CorpusAddress(uri=corpus.uri),
            cache_uri=cache_uri,
            policy=view_set.policy,
            view_seed=view_set.seed,
            view_set=view_set.spec,
            kept=view_set.kept,
            verify_one_in=verify_one_in,
            grid=view_set.grid,
            target_set=target_set,
            outputs=specs,
            calibrating=standing.calibrating,
            generations={
                name: {unit.id: generation for unit, generation in newest.items() if generation}
                for name, newest in standing.generations.items()
            },
        ),
        view_set=view_set,
        missing=tuple(unit for unit in view_set.units if unit in standing.without_output | standing.without_views),
        forwards_missing=view_set.views_in(sorted(standing.without_output)) + standing.calibrating_forwards,
        bytes_per_view=sizes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What a cache has of a target set and its views, by the newest generation of each committed unit."""

    generations: Mapping[str, Mapping[Unit, int]]
    without_output: frozenset[Unit]
    without_views: frozenset[Unit]
    calibrating: Unit | None
    calibrating_forwards: int


def _standing(
    teacher: str,
    view_set: ViewSetPlan,
    specs: Mapping[str, Spec],
    *,
    corpus: PackedCorpus,
    cache_uri: str,
    target_set: Spec,
) -> _Standing:
    without_output: set[Unit] = set()
    generations: dict[str, Mapping[Unit, int]] = {}
    calibrating = calibrating_unit(view_set.units[0]) if view_set.units else None
    calibrating_views = _views_of_one_group(corpus, view_set.split, calibrating) if calibrating else 0
    calibrates = False
    for name, spec in specs.items():
        output = find_output(cache_uri, target_set, spec)
        generations[name] = output.collection.newest_generations(view_set.units) if output is not None else {}
        without_output |= set(missing_units(view_set.units, generations[name]))
        coding = Coding.from_identity(spec.identity)
        if coding.needs_calibration and not generations[name] and (output is None or output.calibration() is None):
            calibrates = True
            _refuse_too_few_for_basis(coding, calibrating_views, what=f"teacher {teacher}: outputs.{name}.basis")
    store = find_view_store(cache_uri, view_set.spec)
    generations[VIEWS] = store.collection.newest_generations(view_set.units) if store is not None else {}
    return _Standing(
        generations=generations,
        without_output=frozenset(without_output),
        without_views=frozenset(missing_units(view_set.units, generations[VIEWS])),
        calibrating=calibrating,
        calibrating_forwards=calibrating_views if calibrates else 0,
    )
