"""Views whose pixels are kept: rendered once, then read by further teachers and students, who need no image."""

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from kd_ray.cache.view_store import PIXELS_OBJECT, find_view_store
from kd_ray.config.corpus import AllLabels
from kd_ray.config.kept import KeptFormat
from kd_ray.config.load import load_recipe
from kd_ray.config.views import NAMELESS, Policy
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.errors import CacheCorrupt, ExtractionError, ShardCorrupt
from kd_ray.extraction.plan import TargetPlan
from kd_ray.telemetry.units import human_bytes
from kd_ray.training.batches import BatchStream, Part
from kd_ray.training.snapshot import full_order
from kd_ray.training.targets import CachedTargets
from kd_ray.views import View, draw, keep_view, max_kept_bytes
from pipelines.stages.plan import CachePlan, plan_table
from tests.integration.test_unit_extractor import PixelTeacher, extractor_with, stored
from tests.support.lost_images import destroy_images
from tests.support.recipes import write
from tests.support.tiny_world import (
    MIXED_POLICY,
    POLICY,
    TEACHER_SIZE_PX,
    VIEW_SEED,
    cached_source,
    extract,
    files_below,
    images_of,
    pack_images,
    plan_teacher,
    plan_views,
    save_teacher,
    stream_settings,
    write_images,
)

NUM_VIEWS = 2
JPEG = KeptFormat(size_px=(40, 36), codec="jpeg", quality=90)
FORMATS = [JPEG, replace(JPEG, codec="webp"), KeptFormat(size_px=TEACHER_SIZE_PX, codec="raw", quality=None)]


@pytest.fixture
def corpus(tmp_path: Path) -> PackedCorpus:
    """A small corpus of the test's own, which it may damage."""
    write_images(tmp_path / "source", per_class=12)
    return pack_images(tmp_path / "source", tmp_path / "packed")


@pytest.fixture
def plan_for(tiny_teacher, corpus: PackedCorpus, tmp_path: Path) -> Callable[..., TargetPlan]:
    def plan(
        *,
        kept: KeptFormat | None = JPEG,
        policy: Policy = POLICY,
        corpus=corpus,
        teacher=tiny_teacher,
        num_views=NUM_VIEWS,
    ) -> TargetPlan:
        views = plan_views(corpus, tmp_path / "cache", num_views=num_views, policy=policy, kept=kept)
        return plan_teacher(teacher, views, corpus, tmp_path / "cache", outputs=("logits", "spatial"))

    return plan


def batches_of(plan: TargetPlan, corpus: PackedCorpus, *, count: int, stored_views: bool) -> list[Part]:
    """Batches with the cache's targets, whose views are read, or rendered and encoded anew."""
    targets = cached_source(plan).open(torch.device("cpu"))
    assert isinstance(targets, CachedTargets)
    views, kept = plan.view_set, plan.job.kept
    assert kept is not None
    stream = BatchStream(
        stream_settings(num_views=views.num_views, policy=views.policy, kept=kept, num_threads=2),
        full_order(corpus, views.spans, seed=1, num_lanes=4, window=2),
        corpus=corpus,
        usable_labels=frozenset(corpus.labelled_ids("train", AllLabels()).tolist()),
        targets={NAMELESS: targets},
        views={NAMELESS: targets.stored_views(kept)} if stored_views else None,
    )
    batches = stream.batches(worker=0, num_workers=1, consumed=0)
    try:
        return [batch.parts[0] for batch in islice(batches, count)]
    finally:
        batches.close()


@pytest.mark.parametrize("kept", FORMATS, ids=lambda kept: kept.codec)
def test_a_teacher_sees_the_decoded_pixels_at_its_own_size(plan_for, corpus: PackedCorpus, kept: KeptFormat) -> None:
    plan = plan_for(kept=kept)
    extractor = extractor_with(PixelTeacher(), plan, corpus, batch_size=7, num_threads=2)
    for unit in plan.missing:
        extractor(unit, attempt="a")
    found = stored(plan, corpus, "spatial")
    images = images_of(corpus)
    assert len(found) == len(images) * NUM_VIEWS
    for (sample_id, index), values in found.items():
        image = images[sample_id]
        params = draw(POLICY, seed=VIEW_SEED, sample_id=sample_id, view_index=index, image_size_px=image.shape[:2])
        _, view = keep_view(View(params=params, image_HW3=image), kept)
        pixels = view.render(TEACHER_SIZE_PX, "bicubic")
        np.testing.assert_array_equal(values, PixelTeacher.outputs_of(pixels[None])["spatial"][0])


@pytest.mark.parametrize("policy", [POLICY, MIXED_POLICY], ids=lambda policy: policy.name)
def test_read_views_give_the_batches_of_rendered_ones_bit_by_bit(
    plan_for, corpus: PackedCorpus, policy: Policy
) -> None:
    plan = plan_for(policy=policy)
    extract(plan)
    rendered = batches_of(plan, corpus, count=8, stored_views=False)
    read = batches_of(plan, corpus, count=8, stored_views=True)
    for one, two in zip(rendered, read, strict=True):
        np.testing.assert_array_equal(one.sample_ids_B, two.sample_ids_B)
        assert torch.equal(one.inputs_BCHW, two.inputs_BCHW)
        for field in ("own_B", "partner_B", "weights_B"):
            assert torch.equal(getattr(one.labels, field), getattr(two.labels, field))
        cpu = torch.device("cpu")
        assert all(torch.equal(one.targets[key].to(cpu), two.targets[key].to(cpu)) for key in two.targets)
    assert {int(view) for batch in read for view in batch.view_indices_B} == {0, 1}


def test_neither_a_second_teacher_nor_a_student_reads_an_image(plan_for, corpus: PackedCorpus, tmp_path: Path) -> None:
    first = plan_for()
    extract(first)
    before = batches_of(first, corpus, count=6, stored_views=True)
    views = files_below(tmp_path / "cache" / "views")
    destroy_images(corpus.uri)
    afresh = open_corpus(corpus.uri)
    with pytest.raises(ShardCorrupt):
        afresh.read_rows(afresh.shards("train")[0].name, 0, 1)

    second = plan_for(corpus=afresh, teacher=save_teacher(tmp_path, seed=1, name="second"))
    reports = extract(second)
    assert sum(report.num_forwards for report in reports) == second.forwards_total > 0
    assert sum(report.num_rounded for report in reports) == 0
    assert files_below(tmp_path / "cache" / "views") == views
    for one, two in zip(before, batches_of(first, afresh, count=6, stored_views=True), strict=True):
        assert torch.equal(one.inputs_BCHW, two.inputs_BCHW)
        assert torch.equal(one.labels.own_B, two.labels.own_B)


def test_where_params_are_kept_both_need_the_images(plan_for, corpus: PackedCorpus, tmp_path: Path) -> None:
    extract(plan_for(kept=None))
    destroy_images(corpus.uri)
    afresh = open_corpus(corpus.uri)
    second = plan_for(kept=None, corpus=afresh, teacher=save_teacher(tmp_path, seed=1, name="second"))
    with pytest.raises(ShardCorrupt):
        extract(second)


def test_committed_units_are_left_alone(plan_for, corpus: PackedCorpus) -> None:
    plan = plan_for()
    extract(plan)
    destroy_images(corpus.uri)
    assert plan_for().missing == ()
    assert [report.num_forwards for report in extract(plan, attempt="again")] == [0] * len(plan.missing)


def test_added_views_are_all_that_is_rendered(plan_for, corpus: PackedCorpus, tmp_path: Path) -> None:
    extract(plan_for())
    before = files_below(tmp_path / "cache" / "views")
    more = plan_for(num_views=3)
    num_samples = corpus.num_samples("train")
    assert more.forwards_missing == num_samples
    assert sum(report.num_forwards for report in extract(more)) == num_samples
    after = files_below(tmp_path / "cache" / "views")
    assert {name: after[name] for name in before} == before
    seen = batches_of(more, corpus, count=3 * num_samples // 16 + 1, stored_views=True)
    assert {int(view) for batch in seen for view in batch.view_indices_B} == {0, 1, 2}


def test_added_samples_are_all_that_is_rendered(plan_for, corpus: PackedCorpus, tmp_path: Path) -> None:
    extract(plan_for())
    write_images(tmp_path / "source", per_class=16, seed=1)
    grown = pack_images(tmp_path / "source", tmp_path / "packed")
    more = plan_for(corpus=grown)
    num_new = grown.num_samples("train") - corpus.num_samples("train")
    assert more.forwards_missing == NUM_VIEWS * num_new > 0
    assert sum(report.num_forwards for report in extract(more)) == NUM_VIEWS * num_new
    ids = {int(each) for batch in batches_of(more, grown, count=9, stored_views=True) for each in batch.sample_ids_B}
    assert ids - set(corpus.members("train").sample_ids.tolist())


@pytest.mark.parametrize(
    "other",
    [None, replace(JPEG, quality=91), replace(JPEG, size_px=(40, 40)), replace(JPEG, codec="webp")],
    ids=["params", "quality", "size", "codec"],
)
def test_kept_otherwise_is_another_view_set(plan_for, other: KeptFormat | None) -> None:
    extract(plan_for())
    plan = plan_for(kept=other)
    assert plan.forwards_missing == plan.forwards_total
    assert plan.job.view_set.folder != plan_for().job.view_set.folder
    assert plan.job.target_set.folder != plan_for().job.target_set.folder


def test_objects_stay_below_what_the_grid_was_chosen_for(plan_for, tmp_path: Path, corpus: PackedCorpus) -> None:
    plan = plan_for(kept=FORMATS[2])
    extract(plan)
    store = find_view_store(plan.job.cache_uri, plan.job.view_set)
    assert store is not None
    for unit, commit in store.collection.commits().items():
        num_bytes = plan.view_set.views_in([unit]) * max_kept_bytes(FORMATS[2])
        assert num_bytes < commit.objects[PIXELS_OBJECT][0] < 1.05 * num_bytes + 4096
    wide = plan_views(
        corpus, tmp_path / "wide", num_views=64, unit_views=None, kept=replace(JPEG, size_px=(1024, 1024))
    )
    assert wide.grid.unit_views == 1  # 16 samples of up to 3 MB
    with pytest.raises(ExtractionError, match=r"views\.pixels_size_px: one unit of kept pixels would be up to"):
        plan_views(corpus, tmp_path / "wide", num_views=64, unit_views=64, kept=replace(JPEG, size_px=(1024, 1024)))


def test_damaged_pixels_stop_the_second_teacher_and_the_student(plan_for, corpus: PackedCorpus, tmp_path: Path) -> None:
    plan = plan_for()
    extract(plan)
    for path in (tmp_path / "cache" / "views").rglob(PIXELS_OBJECT):
        data = bytearray(path.read_bytes())
        data[len(data) // 4] ^= 1
        path.write_bytes(data)
    with pytest.raises(CacheCorrupt, match=r"pixels\.parquet: damaged"):
        extract(plan_for(teacher=save_teacher(tmp_path, seed=1, name="second")))
    with pytest.raises(CacheCorrupt, match=r"pixels\.parquet: damaged"):
        batches_of(plan, corpus, count=9, stored_views=True)


def test_the_plan_tells_the_bytes_of_kept_pixels(plan_for, corpus: PackedCorpus, tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    num_views = NUM_VIEWS * corpus.num_samples("train")
    for kept, each_view in ((FORMATS[2], "3,072"), (JPEG, "at most 5,344"), (None, "")):
        plan = plan_for(kept=kept)
        whole = CachePlan(
            training_views={NAMELESS: plan.view_set},
            training={NAMELESS: {"teacher": plan}},
            evaluation={},
            is_live=False,
        )
        console = Console(width=250, record=True, file=io.StringIO())
        console.print(plan_table(whole, recipe))
        rows = [line for line in console.export_text().splitlines() if "kept pixels" in line]
        assert len(rows) == (kept is not None)
        if kept is not None:
            bound = "at most " if kept is JPEG else ""
            in_all = f"{bound}{human_bytes(max_kept_bytes(kept) * num_views)}"
            cells = [cell.strip() for cell in rows[0].split("│") if cell.strip()]
            assert cells == ["kept pixels", f"train ({POLICY.name}, {kept.title})", each_view, in_all]
