"""The tiny world with two kinds of views, two crops of one of them, and repeats."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kd_ray.config.losses import Loss, OnFeatures
from kd_ray.config.models import Input
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.views import HorizontalFlip, Policy, RandomResizedCrop, ViewKind, Views
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.kinds import plan_kinds
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.models import output_shapes
from kd_ray.training.batches import StreamSettings, stream_kinds
from kd_ray.training.fit import FitSettings
from kd_ray.training.job import TrainJob
from kd_ray.training.sources import LiveSource
from tests.support.tiny_world import (
    POLICY,
    STUDENT_SIZE_PX,
    TEACHER_SIZE_PX,
    VIEW_SEED,
    cached_source,
    live_source,
    plan_teacher,
    train_job,
)

WIDE, NARROW = "wide", "narrow"
NUM_DRAWS, NUM_CROPS, REPEATS = 3, 2, 2
NARROW_PX, TEACHER_NARROW_PX = (16, 16), (20, 20)
BATCH_SIZE = 16

VIEWS = Views(
    policy=Policy(
        name="tiny_kinds",
        kinds={
            WIDE: ViewKind(operations=POLICY.operations),
            NARROW: ViewKind(
                operations=(
                    RandomResizedCrop(kind="random_resized_crop", scale=(0.1, 0.4)),
                    HorizontalFlip(kind="horizontal_flip"),
                ),
                num_crops=NUM_CROPS,
                size_px=NARROW_PX,
            ),
        },
        repeats=REPEATS,
    ),
    seed=VIEW_SEED,
    count=NUM_DRAWS,
)
MULTICROP_RECIPE = """\
name: multicrop
out: {home}/out
corpus:
  kind: folder
  uri: {home}/images
  packed_uri: ${{out}}/corpus
  split: {{kind: hash, test_fraction: 0.2}}
  row_group_size: 8
views:
  count: 2
  verify: all
  policy:
    preset: dino_multicrop
    repeats: 2
    kinds:
      global: {{size_px: [32, 32]}}
      global_solarized: {{size_px: [32, 32]}}
      local: {{size_px: [16, 16], num_crops: 3}}
teacher:
  model: {{kind: cifar_resnet, depth: 8}}
  weights: {home}/teacher-0.safetensors
  input: {{size_px: [32, 32]}}
  outputs: {{summary: {{}}, spatial: {{}}, logits: {{}}}}
cache: {{uri: "${{out}}/cache"}}
student:
  model: {{kind: cifar_resnet, depth: 8}}
  input: {{size_px: [24, 24], kind_sizes_px: {{local: [12, 12]}}}}
train:
  losses:
    - {{kind: kd}}
    - {{kind: feature, output: spatial}}
  epochs: 1
  global_batch_size: 16
  num_workers: 2
"""
NUM_DRAWS_OF_RECIPE, NUM_LOCAL = 2, 3

STUDENT_INPUT = Input(size_px=STUDENT_SIZE_PX)


def with_kinds(teacher: KnownTeacher) -> KnownTeacher:
    """The teacher, who sees narrow views at a size of its own."""
    input = Input(size_px=TEACHER_SIZE_PX, kind_sizes_px={NARROW: TEACHER_NARROW_PX})
    config = teacher.config.model_copy(update={"input": input})
    shapes = {
        kind: output_shapes(
            config.model,
            size_px=input.of_kind(VIEWS.policy, kind).size_px,
            num_classes=teacher.num_classes,
            names=config.outputs.names(),
            spatial_stage=-1,
        )
        for kind in VIEWS.policy.kind_names
    }
    return replace(teacher, config=config, kind_shapes=shapes)


def plan_all(
    teacher: KnownTeacher, corpus: PackedCorpus, cache_uri: Path, *, views: Views = VIEWS, **cache: int
) -> dict[str, TargetPlan]:
    """What `teacher` has to compute, by kind; units of two row groups by two views unless told otherwise."""
    settings = CacheSettings(uri=str(cache_uri), **({"unit_row_groups": 2, "unit_views": 2} | cache))
    view_sets = plan_kinds(
        corpus,
        split="train",
        views=views,
        cache=settings,
        widest_bytes_per_view=dict.fromkeys(views.policy.kind_names, 1),
    )
    return {
        kind: plan_teacher(teacher.of_kind(views.policy, kind), view_set, corpus, cache_uri)
        for kind, view_set in view_sets.items()
    }


def kinds_stream(*, views: Views = VIEWS, fresh: bool = False, num_threads: int = 1) -> StreamSettings:
    """Batches of both kinds at the student's sizes."""
    return StreamSettings(
        kinds=stream_kinds(views, STUDENT_INPUT, fresh=fresh),
        view_seed=VIEW_SEED,
        repeats=views.policy.repeats,
        global_batch_size=BATCH_SIZE,
        num_threads=num_threads,
    )


def kinds_job(
    corpus: PackedCorpus,
    plans: Mapping[str, TargetPlan],
    teacher: KnownTeacher,
    *,
    losses: Sequence[Loss],
    settings: FitSettings,
    live: bool = False,
) -> TrainJob:
    """A student that follows `teacher` (`with_kinds`) on both kinds, from the cache or with the teacher in the loop."""
    live_teachers: LiveSource = replace(
        live_source(teacher),
        inputs={
            kind: {teacher.name: teacher.config.input.of_kind(VIEWS.policy, kind)} for kind in VIEWS.policy.kind_names
        },
    )
    job = train_job(
        corpus,
        plans[WIDE].view_set,
        teacher,
        losses=losses,
        source=live_teachers if live else {kind: cached_source(plan) for kind, plan in plans.items()},
        run_uri="never-written",
        settings=settings,
    )
    shapes = tuple(
        {
            index: teacher.of_kind(VIEWS.policy, kind).shapes[loss.output]
            for index, loss in enumerate(losses)
            if isinstance(loss, OnFeatures)
        }
        for kind in VIEWS.policy.kind_names
    )
    return replace(job, stream=kinds_stream(), target_shapes=shapes)
