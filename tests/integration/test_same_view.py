"""The promise of the same view: at equal size, the student's network gets the very numbers that the teacher's got.

Through the parts of a run: a packed corpus of every mode and format, extraction by a frozen teacher, and the batches of
training. What a network gets is taken from its first convolution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_ray.config.models import Input
from kd_ray.config.presets import PRESETS
from kd_ray.config.views import NAMELESS, Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.job import build_extractor
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.batches import Batch, BatchStream, NoTargets, StreamKind, StreamSettings
from kd_ray.training.snapshot import full_order
from tests.support.stored_images import EXTREME_SIZES_PX, MODES, SHARP, SMOOTH, StoredImage
from tests.support.tiny_world import VIEW_SEED, pack_images, plan_teacher, plan_views

NUM_VIEWS, NUM_LANES, BATCH_SIZE = 2, 4, 16
SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}
MASKLESS = {"operations": {0: {"cat_max_ratio": None}}}  # these images have no masks
POLICIES = [
    policy.of_kind(kind).model_copy(update={"renderer_version": version})
    for version, written in [
        *(
            (1 + at % 2, {"preset": name, **(MASKLESS if name == "paper_seg" else {})})
            for at, name in enumerate(PRESETS)
        ),
        (1, {"preset": "imagenet_strong"}),
        (2, {"preset": "imagenet_strong", "name": "unmixed", "mix": None}),
    ]
    for policy in [Policy.model_validate(written)]
    for kind in policy.kind_names
]

Views = dict[tuple[int, int], Tensor]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    """Every mode of every format at a common and an extreme size, and photographs' orientations."""
    folder = tmp_path_factory.mktemp("formats")
    images = [
        StoredImage(size_px, image_format, mode, (), texture, seed)
        for seed, (image_format, mode) in enumerate((name, mode) for name, modes in MODES.items() for mode in modes)
        for size_px, texture in (((37, 53), SMOOTH), (EXTREME_SIZES_PX[5 + seed % 4], SHARP))
    ]
    images += [StoredImage((20, 31), "JPEG", "RGB", (("orientation", at),), SHARP, at) for at in range(1, 9)]
    images += [StoredImage((33, 21), "JPEG", "RGB", (("progressive", True),), SHARP, 99)]
    for at, image in enumerate(images):
        suffix = SUFFIXES.get(image.image_format, image.image_format.lower())
        path = folder / "source" / "ab"[at % 2] / f"{at}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data())
    packed = pack_images(folder / "source", folder / "packed")
    assert packed.num_samples("train") > 60
    return packed


@contextmanager
def what_networks_get() -> Iterator[list[Tensor]]:
    """The inputs [B, 3, H, W] of every convolution of three channels while inside, in order."""
    got: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            got.append(arguments[0].clone())

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield got
    finally:
        handle.remove()


def teacher_views(plan: TargetPlan, corpus: PackedCorpus, *, num_threads: int) -> Views:
    """By (sample id, view): rows in their order, all views of a unit of each."""
    extractor = build_extractor(plan.job, device="cpu", batch_size=7, num_threads=num_threads)
    found: Views = {}
    for unit in plan.missing:
        with what_networks_get() as got:
            extractor(unit, attempt="a")
        span = unit.span
        ids = corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=()).sample_ids.tolist()
        turns = [(sample_id, view) for sample_id in ids for view in range(unit.view_start, unit.view_stop)]
        found |= dict(zip(turns, torch.cat(got), strict=True))
    return found


def student_views(
    policy: Policy, seen_as: Input, corpus: PackedCorpus, plan: TargetPlan, *, num_workers: int, num_threads: int
) -> Views:
    """By (sample id, view), of all workers' batches until each has come."""
    stream = BatchStream(
        StreamSettings(
            kinds=(StreamKind(name=NAMELESS, policy=policy, num_crops=1, num_views=NUM_VIEWS, input=seen_as),),
            view_seed=VIEW_SEED,
            repeats=1,
            global_batch_size=BATCH_SIZE,
            num_threads=num_threads,
        ),
        full_order(corpus, plan.view_set.spans, seed=1, num_lanes=NUM_LANES, window=2),
        corpus=corpus,
        usable_labels=frozenset(),
        targets={NAMELESS: NoTargets()},
    )
    num_steps = -(-corpus.num_samples("train") * NUM_VIEWS // BATCH_SIZE) + 2
    found: Views = {}
    for worker in range(num_workers):
        batches = stream.batches(worker=worker, num_workers=num_workers, consumed=0)
        try:
            for batch in islice(batches, num_steps):
                found |= views_of(batch)
        finally:
            batches.close()
    return found


def views_of(batch: Batch) -> Views:
    (part,) = batch.parts
    turns = zip(part.sample_ids_B.tolist(), part.view_indices_B.tolist(), strict=True)
    return dict(zip(turns, part.inputs_BCHW, strict=True))


def assert_same(found: Views, expected: Views) -> None:
    assert found.keys() == expected.keys()
    assert [key for key, view_CHW in found.items() if not torch.equal(view_CHW, expected[key])] == []


def title(policy: Policy) -> str:
    return f"{policy.name}-{policy.renderer_version}"


@pytest.mark.parametrize("policy", POLICIES, ids=title)
def test_the_student_gets_what_the_teacher_got(
    policy: Policy, corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    by_threads: dict[int, Views] = {}
    for num_threads in (1, 4):
        cache = tmp_path / f"cache-{num_threads}"
        views = plan_views(corpus, cache, num_views=NUM_VIEWS, policy=policy)
        plan = plan_teacher(tiny_teacher, views, corpus, cache, outputs=("summary",))
        by_threads[num_threads] = teacher_views(plan, corpus, num_threads=num_threads)
    expected = by_threads[1]
    assert len(expected) == corpus.num_samples("train") * NUM_VIEWS
    assert_same(by_threads[4], expected)
    for num_workers, num_threads in ((1, 1), (2, 4), (4, 1)):
        found = student_views(
            policy, tiny_teacher.config.input, corpus, plan, num_workers=num_workers, num_threads=num_threads
        )
        assert_same(found, expected)


def test_another_view_would_be_seen(corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> None:
    """The comparison above can fail: under another kernel most views are other numbers."""
    policy = Policy.model_validate("weak")
    views = plan_views(corpus, tmp_path, num_views=NUM_VIEWS, policy=policy)
    plan = plan_teacher(tiny_teacher, views, corpus, tmp_path, outputs=("summary",))
    expected = teacher_views(plan, corpus, num_threads=1)
    other = tiny_teacher.config.input.model_copy(update={"interpolation": "bilinear"})
    found = student_views(policy, other, corpus, plan, num_workers=1, num_threads=1)
    differing = [key for key in expected if not torch.equal(found[key], expected[key])]
    assert len(differing) > len(expected) / 3
