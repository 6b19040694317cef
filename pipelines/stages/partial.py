"""Training on a cache that is not complete: what the recipe's `train.missing_targets` makes of that.

It matters where the extract stage is not among those of the run, so that another run has extracted, or extracts now.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from kd_ray.cache.codecs import Coding
from kd_ray.cache.target_set import find_output
from kd_ray.cache.units import Span
from kd_ray.config.losses import CrossEntropyLoss
from kd_ray.config.recipe import Recipe
from kd_ray.errors import CacheIncomplete
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import open_storage
from kd_ray.training.job import RUN_FILE, Snapshot, TrainJob
from kd_ray.training.loading import TargetKey
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.missing import Missing, find_missing
from kd_ray.training.sources import CachedSource, LiveSource, PartialSource
from kd_ray.training.teacher_dropout import TeacherDropout
from pipelines.context import Record, Run, key_of
from pipelines.stages.plan import CachePlan

STAGE = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What is `missing` of the cache for a run, by kind of view, and where the run that was pinned before it lies."""

    missing: Mapping[str, Missing]
    before: str | None

    @property
    def anything(self) -> bool:
        """Whether it trains on a part of the cache."""
        return any(each.units for each in self.missing.values())


NOTHING = Pinned(missing={}, before=None)


def losses_of(recipe: Recipe) -> WeightedLosses:
    """The recipe's losses, each with the teacher it follows."""
    losses, probability = recipe.train.losses, recipe.train.teacher_dropout
    return WeightedLosses(
        losses=losses,
        teachers=tuple(None if isinstance(loss, CrossEntropyLoss) else recipe.teacher_of(loss) for loss in losses),
        balance=recipe.train.balance,
        dropout=TeacherDropout(probability=probability, seed=recipe.train.seed) if probability else None,
    )


def cached_sources(recipe: Recipe, plan: CachePlan) -> dict[str, CachedSource]:
    """What training reads of a complete cache, by kind of view."""
    needed = sorted(losses_of(recipe).needed_targets())
    return {
        kind: CachedSource(
            cache_uri=recipe.cache.uri,
            view_set=views.spec,
            outputs={
                (teacher, output): (
                    plan.training[kind][teacher].job.target_set,
                    plan.training[kind][teacher].job.outputs[output],
                )
                for teacher, output in needed
            },
            units=views.units,
            policy=views.policy,
            verify_one_in=recipe.views.verify_one_in,
            kept=recipe.views.kept(kind),
        )
        for kind, views in plan.training_views.items()
    }


def reads_the_cache(recipe: Recipe) -> bool:
    """Whether training reads targets or kept pixels at all."""
    train = recipe.train
    return train.targets == "cached" and (bool(losses_of(recipe).needed_targets()) or recipe.views.keep == "pixels")


def applies(run: Run) -> bool:
    """Whether units may be missing when this run trains, by the recipe's leave."""
    return run.recipe.train.missing_targets != "refuse" and "extract" not in run.stages


def pin(run: Run, cached: Mapping[str, CachedSource], *, fingerprint: str) -> Pinned:
    """What a run leaves out or computes live, where that is asked for; `fingerprint` is that of the complete run.

    A run that has begun goes on with what was missing then, whatever has been committed since.

    Raises:
        CacheIncomplete: live targets would need a calibration that is not fixed yet.
    """
    policy = run.recipe.train.missing_targets
    if policy not in ("skip", "live") or not applies(run) or not reads_the_cache(run.recipe):
        return NOTHING
    begun = run.record(STAGE, _key(run, fingerprint))
    now = {kind: _missing(each) for kind, each in cached.items()}
    missing: Mapping[str, Missing] = now
    if begun is not None and ("train" not in run.stages or not open_storage(begun["run"]).exists(RUN_FILE)):
        missing = _pinned_before(begun, now, cached)
        if missing != now:
            run.console.print(
                f"train.missing_targets: {policy}: goes on with what was missing when {begun['run']} was begun, though "
                "other units are missing now. Set it to refuse, with the extract stage, to train on all of them.",
                highlight=False,
                soft_wrap=True,
            )
    if policy == "live":
        _refuse_without_calibration(missing, cached)
    return Pinned(missing=missing, before=begun["run"] if begun is not None else None)


def keep_pinned(run: Run, pinned: Pinned, job: TrainJob, *, fingerprint: str) -> None:
    """Record what `job` was pinned to, before it begins; tell where an earlier run had less of the cache."""
    if "train" not in run.stages:
        return
    if pinned.before is not None and pinned.before != job.run_uri:
        run.console.print(
            f"train.missing_targets: {run.recipe.train.missing_targets}: the cache holds other units than when "
            f"{pinned.before} was trained, so this is another run: {job.run_uri}",
            highlight=False,
            soft_wrap=True,
        )
    if pinned.anything or pinned.before is not None:
        missing = {kind: each.to_json() for kind, each in pinned.missing.items()}
        run.write_record(STAGE, _key(run, fingerprint), {"run": job.run_uri, "missing": missing})


def without_skipped(
    run: Run, plan: CachePlan, cached: Mapping[str, CachedSource], pinned: Pinned
) -> dict[str, CachedSource]:
    """The same sources without the spans of which anything is missing.

    Raises:
        CacheIncomplete: nothing is left.
    """
    spans = frozenset[Span]().union(*(each.spans for each in pinned.missing.values()))
    if spans.issuperset(plan.training_spans):
        raise CacheIncomplete(
            f"{run.recipe.cache.uri}: train.missing_targets is skip, but of every sample a target that training needs "
            "is missing. Run the extract stage first, or set train.missing_targets: wait."
        )
    return {
        kind: replace(each, units=tuple(unit for unit in each.units if unit.span not in spans))
        for kind, each in cached.items()
    }


def with_live(
    recipe: Recipe, teachers: Mapping[str, KnownTeacher], cached: Mapping[str, CachedSource], pinned: Pinned
) -> PartialSource:
    """What is missing computed by those teachers of which something is."""
    keys = {key for each in pinned.missing.values() for key, units in each.outputs.items() if units}
    live = live_source(recipe, teachers, frozenset(keys))
    fingerprints = {name: teachers[name].weights_fingerprint for name in live.teachers}
    return PartialSource(cached=cached, missing=pinned.missing, live=replace(live, fingerprints=fingerprints))


def live_source(recipe: Recipe, teachers: Mapping[str, KnownTeacher], needed: frozenset[TargetKey]) -> LiveSource:
    """The teachers of `needed` in the training loop."""
    names, policy = sorted({teacher for teacher, _ in needed}), recipe.views.policy
    return LiveSource(
        teachers={
            name: (teachers[name].config, teachers[name].weights_uri, teachers[name].num_classes) for name in names
        },
        needed=needed,
        inputs={
            kind: {name: teachers[name].config.input.of_kind(policy, kind) for name in names}
            for kind in policy.kind_names
        },
    )


def snapshot_of(recipe: Recipe, plan: CachePlan, missing: Mapping[str, Missing]) -> Snapshot:
    """How much is missing: units and views of all kinds, and samples."""
    rows_of = next(iter(plan.training_views.values())).rows_of
    spans = {span for each in missing.values() for span in each.spans}
    return Snapshot(
        policy=recipe.train.missing_targets,
        num_units=sum(len(each.units) for each in missing.values()),
        num_views=sum(plan.training_views[kind].views_in(sorted(each.targets)) for kind, each in missing.items()),
        num_samples=sum(rows_of[span] for span in spans),
    )


def policy_lines(run: Run, plan: CachePlan) -> Iterator[str]:
    """What `train.missing_targets` does in this run, where anything that training reads is missing."""
    recipe, policy = run.recipe, run.recipe.train.missing_targets
    extracts = "extract" in run.stages
    if "train" not in run.stages or not reads_the_cache(recipe) or (extracts and policy == "refuse"):
        return
    if not any(each.missing for kind in plan.training.values() for each in kind.values()):
        return
    missing = {kind: _missing(each) for kind, each in cached_sources(recipe, plan).items()}
    snapshot = snapshot_of(recipe, plan, missing)
    if not snapshot.num_units:
        return
    if extracts:
        yield f"train.missing_targets: {policy}: nothing is left to it, this run extracts all before it trains"
        return
    total = sum(len(each.units) for each in plan.training_views.values())
    of_units = f"of the {total:,} units that training reads {snapshot.num_units:,} are missing"
    match policy:
        case "refuse":
            yield f"train.missing_targets: refuse: {of_units}, so training is refused"
        case "wait":
            yield f"train.missing_targets: wait: {of_units}; training waits for each until another run has extracted it"
        case "skip" | "live":
            yield describe_missing(asdict(snapshot))


def describe_missing(snapshot: Record) -> str:
    """What becomes of what is missing, from the snapshot in a run's record."""
    told = f"WARNING: train.missing_targets: {snapshot['policy']}: {snapshot['num_units']:,} units are missing, so"
    if snapshot["policy"] == "skip":
        return f"{told} {snapshot['num_samples']:,} samples are left out"
    return f"{told} targets of {snapshot['num_views']:,} views are computed in the training loop"


def missing_counts(record: Record) -> dict[str, int]:
    """Of a run's record, by the names that metrics have; empty where it was trained on the whole cache."""
    snapshot = record.get("snapshot")
    if not snapshot:
        return {}
    counts = {"num_missing_units": int(snapshot["num_units"])}
    if snapshot["policy"] == "skip":
        return {**counts, "num_left_out_samples": int(snapshot["num_samples"])}
    return {**counts, "num_live_views": int(snapshot["num_views"])}


def _missing(source: CachedSource) -> Missing:
    return find_missing(source.cache_uri, source.view_set, source.outputs, wanted=source.units)


def _pinned_before(
    begun: Record, now: Mapping[str, Missing], cached: Mapping[str, CachedSource]
) -> Mapping[str, Missing]:
    """As recorded; as it is `now` where the units have been cut otherwise since."""
    recorded = {kind: Missing.from_json(each) for kind, each in begun["missing"].items()}
    is_same_cut = all(each.units <= set(cached[kind].units) for kind, each in recorded.items())
    return recorded if is_same_cut else now


def _refuse_without_calibration(missing: Mapping[str, Missing], cached: Mapping[str, CachedSource]) -> None:
    for kind, each in missing.items():
        for key in each.outputs:
            target_set, spec = cached[kind].outputs[key]
            output = find_output(cached[kind].cache_uri, target_set, spec)
            coding = Coding.from_identity(spec.identity)
            if coding.needs_calibration and (output is None or output.calibration() is None):
                raise CacheIncomplete(
                    f"{cached[kind].cache_uri}/targets/{target_set.folder}/{spec.folder}: is stored as {coding.codec}, "
                    "whose calibration is fixed with the first unit, and there is none. Run the extract stage at least "
                    "that far, or set train.missing_targets: wait."
                )


def _key(run: Run, fingerprint: str) -> str:
    return key_of(run=fingerprint, policy=run.recipe.train.missing_targets)
