"""The students of a run as jobs: what each learns from, how long, and under which name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kd_ray.cache.order import Order
from kd_ray.cache.transforms import FrozenTransform
from kd_ray.cache.units import Span
from kd_ray.config.corpus import NoLabels
from kd_ray.config.loop import seconds_of
from kd_ray.config.losses import CrossEntropyLoss, DkdLoss, LogitsLoss, OnFeatures
from kd_ray.config.recipe import Recipe
from kd_ray.config.train import Train
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.models.weights import weights_file
from kd_ray.storage import join
from kd_ray.storage.signature import signature
from kd_ray.training.batches import StreamSettings, stream_kinds
from kd_ray.training.fit import FitSettings
from kd_ray.training.identity import distilled_fingerprint, reference_fingerprint
from kd_ray.training.job import TrainJob
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.missing import Missing
from kd_ray.training.sampling import sampling_of
from kd_ray.training.snapshot import full_order, labelled_order
from kd_ray.training.sources import CachedSource, PartialSource
from kd_ray.training.waiting import Waiting
from pipelines.context import Run
from pipelines.stages.covers import Covers, differing_covers
from pipelines.stages.partial import (
    applies,
    cached_sources,
    keep_pinned,
    live_source,
    losses_of,
    pin,
    reads_the_cache,
    snapshot_of,
    with_live,
    without_skipped,
)
from pipelines.stages.plan import CachePlan


def distilled_job(run: Run, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher], plan: CachePlan) -> TrainJob:
    """The student that follows teachers, on the whole cache or on what `train.missing_targets` makes of a part of it.

    Raises:
        CacheIncomplete: nothing is left, or what is missing cannot be computed live.
    """
    recipe = run.recipe
    complete = cached_sources(recipe, plan)
    whole = _order(recipe, corpus, plan.training_spans)
    transforms = _frozen_transforms(recipe, complete)
    covers = differing_covers(recipe, teachers)
    of_complete = _fingerprint(recipe, corpus, whole, complete, transforms=transforms, covers=covers)
    pinned = pin(run, complete, fingerprint=of_complete)
    if not pinned.anything:
        job = _job_on(recipe, corpus, teachers, order=whole, fingerprint=of_complete, source=complete)
    elif recipe.train.missing_targets == "skip":
        rest = without_skipped(run, plan, complete, pinned)
        kept = {unit.span for each in rest.values() for unit in each.units}
        order = _order(recipe, corpus, [span for span in plan.training_spans if span in kept])
        _tell_lost_sources(run, whole, order)
        job = _job_on(
            recipe,
            corpus,
            teachers,
            order=order,
            fingerprint=_fingerprint(recipe, corpus, order, rest, transforms=transforms, covers=covers),
            source=rest,
        )
    else:
        job = _job_on(
            recipe,
            corpus,
            teachers,
            order=whole,
            fingerprint=_fingerprint(
                recipe, corpus, whole, complete, transforms=transforms, covers=covers, live=pinned.missing
            ),
            source=with_live(recipe, teachers, complete, pinned),
        )
    job = replace(job, transforms=transforms, covers=covers if any(covers) else ())
    if pinned.anything:
        job = replace(job, snapshot=snapshot_of(recipe, plan, pinned.missing))
    if applies(run) and recipe.train.missing_targets == "wait":
        job = replace(job, waiting=Waiting(limit_s=recipe.train.wait_limit_s))
    keep_pinned(run, pinned, job, fingerprint=of_complete)
    return job


def _tell_lost_sources(run: Run, whole: Order, order: Order) -> None:
    lost = sorted({source.name for source in whole.sources} - {source.name for source in order.sources})
    if lost:
        run.console.print(
            f"WARNING: train.missing_targets: skip: no sample is left of corpus.sources {', '.join(lost)}",
            highlight=False,
            soft_wrap=True,
        )


def _order(recipe: Recipe, corpus: PackedCorpus, spans: Sequence[Span]) -> Order:
    train = recipe.train
    return full_order(
        corpus,
        spans,
        seed=train.seed,
        num_lanes=train.lanes,
        window=train.shuffle_window,
        sampling=sampling_of(recipe),
    )


def _fingerprint(
    recipe: Recipe,
    corpus: PackedCorpus,
    order: Order,
    cached: Mapping[str, CachedSource],
    *,
    transforms: Mapping[int, FrozenTransform],
    covers: Covers,
    live: Mapping[str, Missing] | None = None,
) -> str:
    return distilled_fingerprint(
        recipe,
        corpus_id=corpus.annotated_id,
        order=order,
        views={kind: each.view_set for kind, each in cached.items()},
        targets={kind: each.outputs for kind, each in cached.items()},
        student_weights=_weights_signature(recipe),
        transforms=transforms,
        covers=covers,
        live=live,
    )


def _job_on(
    recipe: Recipe,
    corpus: PackedCorpus,
    teachers: Mapping[str, KnownTeacher],
    *,
    order: Order,
    fingerprint: str,
    source: Mapping[str, CachedSource] | PartialSource,
) -> TrainJob:
    """The student on what `order` and `source` have of the cache; with the teachers alone where the recipe says so."""
    train = recipe.train
    losses = losses_of(recipe)
    live = live_source(recipe, teachers, frozenset(losses.needed_targets())) if train.targets == "live" else None
    return TrainJob(
        name=recipe.student.name,
        run_uri=join(recipe.out, "runs", f"{recipe.student.name}-{fingerprint[:12]}"),
        corpus=corpus.address,
        labels=recipe.labels,
        student=recipe.student,
        num_classes=_num_classes(train, teachers, recipe, corpus),
        losses=losses,
        target_shapes=tuple(
            {
                index: teachers[recipe.teacher_of(loss)].of_kind(recipe.views.policy, kind).shapes[loss.output]
                for index, loss in enumerate(train.losses)
                if isinstance(loss, OnFeatures)
            }
            for kind in recipe.views.policy.kind_names
        ),
        stream=_stream(recipe, fresh=train.views == "fresh"),
        order=order,
        source=(live if losses.needed_targets() else None)
        if train.targets == "live"
        else (source if reads_the_cache(recipe) else None),
        settings=_settings(train, train.num_steps(order.num_samples)),
        seed=train.seed,
        tracking=train.tracking,
    )


def _frozen_transforms(recipe: Recipe, cached: Mapping[str, CachedSource]) -> dict[int, FrozenTransform]:
    """By the index of each loss that standardises; of all kinds of views that of the first, as one head serves all."""
    return {
        index: cached[recipe.views.policy.kind_names[0]].freeze_phi_s(
            (recipe.teacher_of(loss), loss.output), version=loss.standardize_version
        )
        for index, loss in enumerate(recipe.train.losses)
        if isinstance(loss, OnFeatures) and loss.standardize is not None
    }


def reference_job(recipe: Recipe, corpus: PackedCorpus, distilled: TrainJob, *, student_name: str) -> TrainJob:
    """The same student, start, steps and batch size on the labelled images alone, a new view at every turn; nothing is
    stored of those, so they are rendered at the student's own size even where the pixels of views are kept.

    Sources have the same shares, and samples the weights of their labels, as for the distilled student. The run is
    identified by `student_name`, which students that differ only in what they learn from have in common.
    """
    train = recipe.train
    order = labelled_order(
        corpus,
        recipe.labels,
        seed=train.seed,
        num_lanes=train.lanes,
        window=train.shuffle_window,
        sampling=sampling_of(recipe),
    )
    of_name = recipe.model_copy(update={"student": recipe.student.model_copy(update={"name": student_name})})
    fingerprint = reference_fingerprint(
        of_name,
        corpus_id=corpus.annotated_id,
        order=order,
        student_weights=_weights_signature(recipe),
        num_steps=distilled.settings.num_steps,
    )
    return replace(
        distilled,
        name=f"{recipe.student.name}-without-teacher",
        run_uri=join(recipe.out, "runs", f"{student_name}-without-teacher-{fingerprint[:12]}"),
        student=of_name.student,
        losses=WeightedLosses(losses=(CrossEntropyLoss(kind="cross_entropy"),), teachers=(None,)),
        target_shapes=({},) * len(recipe.views.policy.kind_names),
        stream=_stream(recipe, fresh=True),
        order=order,
        source=None,
        transforms={},
        covers=(),
        waiting=None,
        snapshot=None,
    )


def _stream(recipe: Recipe, *, fresh: bool) -> StreamSettings:
    return StreamSettings(
        kinds=stream_kinds(recipe.views, recipe.student.input, fresh=fresh),
        view_seed=recipe.views.seed,
        repeats=recipe.views.policy.repeats,
        global_batch_size=recipe.train.global_batch_size,
        num_threads=max(int(recipe.train.resources_per_worker.num_cpus), 1),
    )


def _weights_signature(recipe: Recipe) -> str | None:
    return signature(weights_file(recipe.student.weights)) if recipe.student.weights is not None else None


def check_student(recipe: Recipe, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher]) -> None:
    """Find what is wrong with the student before any teacher runs for it.

    Raises:
        ModelError: it cannot be built, does not take its input size, or lacks an output that a loss needs.
        RecipeError: the losses speak of different classes.
    """
    from kd_ray.models import output_shapes

    num_classes = _num_classes(recipe.train, teachers, recipe, corpus)
    on_features = [loss for loss in recipe.train.losses if isinstance(loss, OnFeatures)]
    features = sorted({loss.output for loss in on_features if loss.student_stage == -1})
    policy, own = recipe.views.policy, recipe.student.input
    for size_px in {own.size_px, *(own.of_kind(policy, kind).size_px for kind in policy.kind_names)}:
        output_shapes(
            recipe.student.model,
            size_px=size_px,
            num_classes=num_classes,
            names=("logits", *features),
            spatial_stage=-1,
            stages=sorted({loss.student_stage for loss in on_features} - {-1}),
        )


def _settings(train: Train, num_steps: int) -> FitSettings:
    return FitSettings(
        num_steps=num_steps,
        optimizer=train.optimizer,
        schedule=train.schedule,
        gradient_clip=train.gradient_clip,
        log_every_steps=train.log_every_steps,
        evaluate_every_steps=train.evaluate_every_steps,
        checkpoint_every_steps=train.checkpoint_every_steps,
        precision=train.precision,
        accumulate_batches=train.accumulate_batches,
        channels_last=train.channels_last,
        compile=train.compile,
        sync_batch_norm=train.sync_batch_norm,
        deterministic=train.deterministic,
        parallel=train.parallel,
        ema=train.ema,
        average_best=train.average_best,
        early_stopping=train.early_stopping,
        max_time_s=None if train.max_time is None else seconds_of(train.max_time),
    )


def _num_classes(train: Train, teachers: Mapping[str, KnownTeacher], recipe: Recipe, corpus: PackedCorpus) -> int:
    """Those of the logits that the student must match; else the corpus's.

    Raises:
        RecipeError: the losses on the logits speak of different classes.
    """
    wanted = {
        f"the logits of teacher {recipe.teacher_of(loss)!r}": int(
            teachers[recipe.teacher_of(loss)].shapes["logits"][-1]
        )
        for loss in train.losses
        if isinstance(loss, LogitsLoss)
    }
    on_labels = any(
        isinstance(loss, CrossEntropyLoss) or (isinstance(loss, DkdLoss) and not isinstance(recipe.labels, NoLabels))
        for loss in train.losses
    )
    if train.reference or on_labels:
        wanted["the corpus's labels"] = len(corpus.classes)
    if len(set(wanted.values())) > 1:
        told = ", ".join(f"{count} in {what}" for what, count in wanted.items())
        raise RecipeError(
            f"train.losses: the student has one classifier, but the classes differ: {told}. Use a feature loss for a "
            "teacher of other classes, finetune it on these, or drop cross_entropy and train.reference."
        )
    return next(iter(wanted.values()), max(len(corpus.classes), 1))
