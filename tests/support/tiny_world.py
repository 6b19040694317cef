"""A small world in which the whole job runs in seconds: images, a packed corpus, teachers, a cache, training jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.corpus import AllLabels, FolderCorpus, HashSplit
from kd_ray.config.kept import KeptFormat
from kd_ray.config.losses import Loss, OnFeatures
from kd_ray.config.models import Input
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.config.recipe import CacheSettings
from kd_ray.config.student import Student
from kd_ray.config.teacher import Teacher
from kd_ray.config.views import NAMELESS, ColorJitter, HorizontalFlip, Mix, Policy, RandomResizedCrop
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.extraction.job import build_extractor
from kd_ray.extraction.plan import KnownTeacher, TargetPlan, ViewSetPlan, plan_targets, plan_view_set
from kd_ray.extraction.unit import UnitReport
from kd_ray.models import build_model, output_shapes, save_weights, state_fingerprint
from kd_ray.storage import open_storage
from kd_ray.training.batches import StreamKind, StreamSettings
from kd_ray.training.fit import FitSettings
from kd_ray.training.job import TrainJob
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.snapshot import full_order
from kd_ray.training.sources import CachedSource, LiveSource

CLASSES = ("dots", "lines", "waves")
NUM_CLASSES = len(CLASSES)
TEACHER_SIZE_PX, STUDENT_SIZE_PX = (32, 32), (24, 24)
ROW_GROUP_SIZE, SHARD_ROW_GROUPS = 8, 4
VIEW_SEED = 3
NEVER = 10**9

POLICY = Policy(
    name="tiny",
    operations=(
        RandomResizedCrop(kind="random_resized_crop", scale=(0.3, 1.0)),
        HorizontalFlip(kind="horizontal_flip"),
        ColorJitter(kind="color_jitter", brightness=0.4, contrast=0.4),
    ),
)

MIXED_POLICY = POLICY.model_copy(
    update={"name": "tiny_mixed", "mix": Mix(mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.75)}
)


def write_images(root: Path, *, per_class: int, seed: int = 0) -> None:
    """`<root>/<class>/<seed>-<number>.png`: noise of 24 to 48 pixels a side, finer from class to class, all unlike."""
    random = np.random.default_rng(seed)
    for index, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            height, width = random.integers(24, 49, 2).tolist()
            coarse = random.integers(0, 256, (4 + 6 * index, 4 + 6 * index, 3), dtype=np.uint8)
            smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
            Image.fromarray(smooth).save(root / name / f"{seed}-{number:03d}.png")


def pack_images(source: Path, packed: Path | str, **settings: Any) -> PackedCorpus:
    """The images below `source` in row groups of 8, four to a shard, a fifth of them held out."""
    config = FolderCorpus(
        kind="folder",
        uri=str(source),
        packed_uri=str(packed),
        split=HashSplit(test_fraction=0.2),
        row_group_size=ROW_GROUP_SIZE,
        shard_row_groups=SHARD_ROW_GROUPS,
        **settings,
    )
    pack(config)
    return open_corpus(config.packed_uri)


def mixed(corpus: PackedCorpus, sources: Sequence[str]) -> PackedCorpus:
    """The same shards, those of the training split given to `sources` in turn."""
    train = [commit.shard for commit in corpus.commits if commit.split == "train"]
    source_of = dict(zip(train, cycle(sources), strict=False))
    commits = tuple(replace(each, source=source_of.get(each.shard, sources[0])) for each in corpus.commits)
    return replace(corpus, commits=commits)


def save_teacher(folder: Path, *, seed: int, name: str = "teacher") -> KnownTeacher:
    """A ResNet-8 with random weights in a file; every output is stored as float32."""
    config = Teacher.model_validate(
        {
            "model": {"kind": "cifar_resnet", "depth": 8},
            "weights": f"{folder}/{name}-{seed}.safetensors",
            "input": {"size_px": TEACHER_SIZE_PX},
            "outputs": {output: {"codec": "float32"} for output in ("summary", "spatial", "logits")},
        }
    )
    torch.manual_seed(seed)
    module = build_model(config.model, num_classes=NUM_CLASSES)
    save_weights(module, open_storage(str(folder)), f"{name}-{seed}.safetensors")
    shapes = output_shapes(
        config.model,
        size_px=TEACHER_SIZE_PX,
        num_classes=NUM_CLASSES,
        names=config.outputs.names(),
        spatial_stage=config.outputs.spatial_stage,
    )
    return KnownTeacher(
        name=name,
        config=config,
        num_classes=NUM_CLASSES,
        weights_uri=config.weights,
        weights_fingerprint=state_fingerprint(module),
        shapes=shapes,
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def plan_views(
    corpus: PackedCorpus,
    cache_uri: Path | str,
    *,
    num_views: int,
    unit_views: int | None = 2,
    unit_row_groups: int = 2,
    policy: Policy = POLICY,
    kept: KeptFormat | None = None,
) -> ViewSetPlan:
    """Views of the training split, in units of two row groups by two views."""
    return plan_view_set(
        corpus,
        split="train",
        policy=policy,
        seed=VIEW_SEED,
        num_views=num_views,
        cache=CacheSettings(uri=str(cache_uri), unit_row_groups=unit_row_groups, unit_views=unit_views),
        widest_bytes_per_view=1,
        kept=kept,
    )


def plan_teacher(
    teacher: KnownTeacher,
    views: ViewSetPlan,
    corpus: PackedCorpus,
    cache_uri: Path | str,
    *,
    outputs: Sequence[str] = ("summary", "spatial", "logits"),
    verify_one_in: int = 1,
) -> TargetPlan:
    """What `teacher` has to compute for `views`; it compares every view that is stored unless told otherwise."""
    return plan_targets(
        teacher, views, corpus=corpus, cache_uri=str(cache_uri), outputs=outputs, verify_one_in=verify_one_in
    )


def extract(plan: TargetPlan, *, batch_size: int = 32, attempt: str = "first") -> list[UnitReport]:
    """Compute and commit what is missing, in this process."""
    extractor = build_extractor(plan.job, device="cpu", batch_size=batch_size, num_threads=1)
    return [extractor(unit, attempt=attempt) for unit in plan.missing]


def cached_sources(plan: TargetPlan, *, verify_one_in: int = 1) -> dict[str, CachedSource]:
    """`cached_source` as the only kind of views."""
    return {NAMELESS: cached_source(plan, verify_one_in=verify_one_in)}


def cached_source(plan: TargetPlan, *, verify_one_in: int = 1) -> CachedSource:
    """Training reads what `plan` has asked for; every view is checked unless told otherwise."""
    job = plan.job
    return CachedSource(
        cache_uri=job.cache_uri,
        view_set=job.view_set,
        outputs={(job.teacher_name, name): (job.target_set, spec) for name, spec in job.outputs.items()},
        units=plan.view_set.units,
        policy=job.policy,
        kept=job.kept,
        verify_one_in=verify_one_in,
    )


def live_source(teacher: KnownTeacher, *, outputs: Sequence[str] = ("summary", "spatial", "logits")) -> LiveSource:
    """The teacher runs in the training loop."""
    return LiveSource(
        teachers={teacher.name: (teacher.config, teacher.weights_uri, teacher.num_classes)},
        needed=frozenset((teacher.name, output) for output in outputs),
        inputs={NAMELESS: {teacher.name: teacher.config.input}},
    )


def stream_settings(
    *,
    num_views: int | None,
    global_batch_size: int = 16,
    num_threads: int = 1,
    policy: Policy = POLICY,
    repeats: int = 1,
    kept: KeptFormat | None = None,
) -> StreamSettings:
    """Batches of the tiny policy at the student's size."""
    kind = StreamKind(
        name=NAMELESS, policy=policy, num_crops=1, num_views=num_views, input=Input(size_px=STUDENT_SIZE_PX), kept=kept
    )
    return StreamSettings(
        kinds=(kind,),
        view_seed=VIEW_SEED,
        repeats=repeats,
        global_batch_size=global_batch_size,
        num_threads=num_threads,
    )


def fit_settings(num_steps: int, **changes: Any) -> FitSettings:
    """A log at every step, no evaluation but the last, no checkpoint."""
    settings = FitSettings(
        num_steps=num_steps,
        optimizer=Optimizer(kind="adamw", learning_rate=1e-3),
        schedule=Schedule(),
        gradient_clip=None,
        log_every_steps=1,
        evaluate_every_steps=NEVER,
        checkpoint_every_steps=NEVER,
    )
    return replace(settings, **changes)


def train_job(
    corpus: PackedCorpus,
    views: ViewSetPlan,
    teacher: KnownTeacher,
    *,
    losses: Sequence[Loss],
    source: Mapping[str, CachedSource] | LiveSource | None,
    run_uri: Path | str,
    settings: FitSettings,
) -> TrainJob:
    """A ResNet-8 student that follows `teacher` at its own, smaller size."""
    return TrainJob(
        name="student",
        run_uri=str(run_uri),
        corpus=corpus.address,
        labels=AllLabels(),
        student=Student.model_validate(
            {"model": {"kind": "cifar_resnet", "depth": 8}, "input": {"size_px": STUDENT_SIZE_PX}}
        ),
        num_classes=NUM_CLASSES,
        losses=WeightedLosses(
            losses=tuple(losses),
            teachers=tuple(None if loss.kind == "cross_entropy" else teacher.name for loss in losses),
        ),
        target_shapes=(
            {index: teacher.shapes[loss.output] for index, loss in enumerate(losses) if isinstance(loss, OnFeatures)},
        ),
        stream=stream_settings(num_views=views.num_views, policy=views.policy, kept=views.kept),
        order=full_order(corpus, views.spans, seed=1, num_lanes=4, window=2),
        source=source,
        settings=settings,
        seed=0,
    )


def files_below(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def images_of(corpus: PackedCorpus) -> dict[int, NDArray[np.uint8]]:
    """The decoded images of the training split by sample id, read with Pillow alone."""
    import io

    found = {}
    for shard in corpus.shards("train"):
        rows = corpus.read_rows(shard.name, 0, len(shard.rows_per_group))
        for sample_id, data in zip(rows.sample_ids.tolist(), rows.images, strict=True):
            found[sample_id] = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return found
