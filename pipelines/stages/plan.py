"""plan: what the cache must hold, what of it is missing, and what it costs. No work is done."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from kd_ray.cache.plan import spans_of
from kd_ray.cache.units import Span
from kd_ray.config.corpus import NoLabels
from kd_ray.config.losses import OnFeatures
from kd_ray.config.recipe import Recipe
from kd_ray.config.students import each_student
from kd_ray.config.views import EVALUATION_VIEW_SEED
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.kinds import plan_kinds
from kd_ray.extraction.masks import refuse_without_masks
from kd_ray.extraction.plan import KnownTeacher, TargetPlan, ViewSetPlan, bytes_per_view, plan_targets, plan_view_set
from kd_ray.storage import redacted
from kd_ray.telemetry.units import human_bytes
from pipelines.context import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """Targets for training by kind of view and teacher, and `evaluated_outputs` of the evaluation view by teacher (for
    those that store them and can be run). The views of all kinds have the same spans.
    """

    training_views: Mapping[str, ViewSetPlan]
    training: Mapping[str, Mapping[str, TargetPlan]]
    evaluation: Mapping[str, TargetPlan]
    is_live: bool

    @property
    def all(self) -> list[TargetPlan]:
        """Every target set that the run reads from the cache."""
        training = [] if self.is_live else [each for kind in self.training.values() for each in kind.values()]
        return [*training, *self.evaluation.values()]

    def has_whole_training(self, recipe: Recipe) -> bool:
        """Whether the training targets are in the cache to the last one when a run's students are finished."""
        return not self.is_live and recipe.train.missing_targets in ("refuse", "wait")

    @property
    def training_spans(self) -> list[Span]:
        """All spans of the training split."""
        return next(iter(self.training_views.values())).spans


def plan_cache(run: Run, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher]) -> CachePlan:
    """The plan, and a line or a table about it."""
    start_s = time.perf_counter()
    plan = make_plan(run.recipe, corpus, teachers)
    missing = sum(len(each.missing) for each in plan.all)
    total = sum(len(each.view_set.units) for each in plan.all)
    forwards = sum(each.forwards_missing for each in plan.all)
    run.plan_outcome(
        seconds=time.perf_counter() - start_s,
        anything_missing=missing > 0,
        detail=f"{forwards:,} teacher forwards to run ({missing} of {total} units missing)"
        if missing
        else f"nothing to run, all {total} units are committed",
    )
    if missing:
        run.console.print(plan_table(plan, run.recipe))
    for warning in unmixed(run.recipe, corpus):
        run.console.print(warning, highlight=False, soft_wrap=True)
    return plan


def plan_table(plan: CachePlan, recipe: Recipe) -> Table:
    """One row per target set: views, forwards to run, bytes."""
    caption = " ".join([break_even(plan, recipe), *enlarged(recipe)])
    table = Table(title="plan", title_justify="left", caption=caption, caption_justify="left")
    for heading in ("teacher", "views of", "units missing", "forwards to run", "bytes a view", "bytes in all"):
        table.add_column(heading, justify="left" if heading in ("teacher", "views of") else "right")
    for each in plan.all:
        per_view = sum(each.bytes_per_view.values())
        table.add_row(
            each.job.teacher_name,
            f"{each.view_set.split} ({each.view_set.policy.name}, {each.view_set.num_views} each)",
            f"{len(each.missing)} / {len(each.view_set.units)}",
            f"{each.forwards_missing:,}",
            " + ".join(f"{name} {size:,}" for name, size in each.bytes_per_view.items()),
            human_bytes(per_view * each.forwards_total),
        )
    for views in [] if plan.is_live else plan.training_views.values():
        if views.kept is not None:
            bound = "" if views.kept.codec == "raw" else "at most "
            total = views.kept_bytes_per_view * views.views_in(views.units)
            each_view, in_all = f"{bound}{views.kept_bytes_per_view:,}", f"{bound}{human_bytes(total)}"
            table.add_row("kept pixels", f"train ({views.policy.name}, {views.kept.title})", "", "", each_view, in_all)
    return table


def unmixed(recipe: Recipe, corpus: PackedCorpus) -> list[str]:
    """A warning where a view has no other sample of its row group to be mixed with.

    Raises:
        RecipeError: none has one.
    """
    if recipe.views.policy.mix is None:
        return []
    alone = sum(shard.rows_per_group.count(1) for shard in corpus.shards("train"))
    if not alone:
        return []
    if alone == corpus.num_samples("train"):
        raise RecipeError(
            f"views.policy.mix: a view is mixed with one of the same row group, but in {redacted(corpus.uri)} each of "
            f"the row groups of the train split holds one sample ({alone:,} in all). Pack to a new corpus.packed_uri "
            "with more images or another corpus.row_group_size, or take the mix away: mix: null."
        )
    return [
        f"WARNING: views.policy.mix: {alone} of {corpus.num_samples('train'):,} training samples are alone in the last "
        "row group of a shard, and their views stay unmixed. A new packed_uri with another corpus.row_group_size mixes "
        "them, too."
    ]


def enlarged(recipe: Recipe) -> list[str]:
    """A warning for each model whose input is larger than the pixels that are kept."""
    inputs = {f"teacher {name}": each.input for name, each in recipe.all_teachers().items()}
    inputs |= {f"student {one.recipe.student.name}": one.recipe.student.input for one in each_student(recipe)}
    policy, found = recipe.views.policy, []
    for kind in policy.kind_names:
        kept = recipe.views.kept(kind)
        for name, input in inputs.items():
            (height, width), of = input.of_kind(policy, kind).size_px, f" of kind {kind}" if kind else ""
            if kept is not None and (height > kept.size_px[0] or width > kept.size_px[1]):
                found.append(
                    f"WARNING: {name} takes {height}×{width} px, more than is kept of views{of} "
                    f"({kept.size_px[0]}×{kept.size_px[1]}): its views are enlarged."
                )
    return found


def break_even(plan: CachePlan, recipe: Recipe) -> str:
    """Teacher forward passes with and without a cache; says so where this run saves nothing."""
    cached = sum(each.forwards_total for kind in plan.training.values() for each in kind.values())
    num_samples = sum(next(iter(plan.training_views.values())).rows_of.values())
    trained = [one.recipe.train for one in each_student(recipe)]
    num_images = sum(train.num_steps(num_samples) * train.global_batch_size for train in trained)
    live = num_images * sum(recipe.views.policy.num_crops(kind) * len(each) for kind, each in plan.training.items())
    ratio = live / cached if cached else float("inf")
    if len(trained) > 1:
        return (
            f"Without a cache these {len(trained)} students would run the teacher {live:,} times, with it {cached:,} "
            "times in all; every further student runs it 0 times."
        )
    if ratio <= 1:
        return (
            f"One student for {recipe.train.epochs:g} epochs runs the teacher {live:,} times without a cache, "
            f"{cached:,} with it: this run alone saves nothing. Every further student runs it 0 times."
        )
    return (
        f"Without a cache this student would run the teacher {live:,} times, {ratio:.1f} times as often; every further "
        "student runs it 0 times."
    )


def make_plan(recipe: Recipe, corpus: PackedCorpus, teachers: Mapping[str, KnownTeacher]) -> CachePlan:
    """All view sets and every teacher's targets on them."""
    policy = recipe.views.policy
    seeing = {kind: {name: each.of_kind(policy, kind) for name, each in teachers.items()} for kind in policy.kind_names}
    training_views = plan_kinds(
        corpus,
        split="train",
        views=recipe.views,
        cache=recipe.cache,
        widest_bytes_per_view={kind: _widest(each) for kind, each in seeing.items()},
    )
    evaluation_views = plan_view_set(
        corpus,
        split="test",
        policy=recipe.evaluate.policy,
        seed=EVALUATION_VIEW_SEED,
        num_views=1,
        cache=recipe.cache,
        widest_bytes_per_view=_widest(teachers),
    )
    # training looks at views of the val split, which no plan is made of
    val = spans_of({shard.name: len(shard.rows_per_group) for shard in corpus.shards("val")}, unit_row_groups=1)
    refuse_without_masks(corpus, val, policy=recipe.evaluate.policy)
    return CachePlan(
        training_views=training_views,
        training={
            kind: {
                name: plan_targets(
                    teacher,
                    training_views[kind],
                    corpus=corpus,
                    cache_uri=recipe.cache.uri,
                    outputs=teacher.config.outputs.names(),
                    verify_one_in=recipe.views.verify_one_in,
                )
                for name, teacher in of_kind.items()
            }
            for kind, of_kind in seeing.items()
        },
        evaluation={
            name: plan_targets(
                teacher,
                evaluation_views,
                corpus=corpus,
                cache_uri=recipe.cache.uri,
                outputs=evaluated_outputs(recipe, teacher),
                verify_one_in=recipe.views.verify_one_in,
            )
            for name, teacher in teachers.items()
            if evaluated_outputs(recipe, teacher) and teacher.config.network is not None
        },
        is_live=all(one.recipe.train.targets == "live" for one in each_student(recipe)),
    )


def evaluated_outputs(recipe: Recipe, teacher: KnownTeacher) -> tuple[str, ...]:
    """What is computed of the held-out split: logits, and summaries where a student's features are what is scored."""
    on_features = all(isinstance(loss, OnFeatures) for loss in recipe.train.losses)
    is_wanted = {"logits": True, "summary": on_features and not isinstance(recipe.labels, NoLabels)}
    return tuple(name for name in teacher.config.outputs.names() if is_wanted.get(name, False))


def _widest(teachers: Mapping[str, KnownTeacher]) -> int:
    """Bytes of the widest output of any teacher, for one view."""
    return max(
        size for teacher in teachers.values() for size in bytes_per_view(teacher.config, teacher.shapes).values()
    )
