"""Views whose crop the mask decides: the same for extraction, training, evaluation and the sheet; changes are seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kd_ray.cache.replay import Replay, columns_for
from kd_ray.cache.view_store import find_view_store
from kd_ray.config.corpus import FolderCorpus, ParquetCorpus, PathSplit, SegmentationCorpus
from kd_ray.config.losses import FeatureLoss
from kd_ray.config.models import Input
from kd_ray.config.views import EVALUATION_VIEW_SEED, NAMELESS, Policy
from kd_ray.corpus.images.masks import decode_mask
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import CorpusError, ViewMismatch
from kd_ray.evaluate.contact_sheet import Eye, SheetKind, contact_sheet
from kd_ray.evaluate.predict import predict
from kd_ray.evaluate.sheet_samples import Group, packed_group, training_group
from kd_ray.extraction.masks import refuse_without_masks
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.job import train_alone
from kd_ray.views import ViewParams, decode_views, draw, render
from tests.support.corpus_files import encoded, write
from tests.support.tiny_world import (
    VIEW_SEED,
    cached_source,
    extract,
    fit_settings,
    images_of,
    plan_teacher,
    plan_views,
    train_job,
)

POLICY = Policy.model_validate({"preset": "paper_seg", "name": "masked"})
NUM_IMAGES, NUM_VIEWS = 14, 3
SUMMARY = FeatureLoss.model_validate({"kind": "feature", "output": "summary", "distance": "cosine"})


def write_pair(root: Path, number: int, *, seed: int = 0) -> None:
    """An image with a mask of three classes and some unlabelled pixels, most of it class 0."""
    random = np.random.default_rng((seed, number))
    height, width = random.integers(24, 49, 2).tolist()
    mask = np.zeros((height, width), np.uint8)
    mask[int(height * random.uniform(0.5, 0.8)) :] = 1
    mask[:, int(width * random.uniform(0.7, 0.9)) :] = 2
    mask[:3] = 255
    write(root / "images" / f"{number:03d}.png", encoded(random.integers(0, 256, (height, width, 3), dtype=np.uint8)))
    write(root / "masks" / f"{number:03d}.png", encoded(mask))


def write_pairs(root: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        write_pair(root / ("train" if number % 7 else "test"), number)


def packed_pairs(folder: Path, *, name: str = "packed") -> PackedCorpus:
    config = SegmentationCorpus(
        kind="segmentation",
        uri=str(folder / "source"),
        packed_uri=str(folder / name),
        split=PathSplit(kind="paths"),
        row_group_size=4,
        shard_row_groups=2,
    )
    pack(config)
    return open_corpus(config.packed_uri)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "source", range(NUM_IMAGES))
    return packed_pairs(folder)


def masks_of(corpus: PackedCorpus) -> dict[int, Any]:
    found = {}
    for shard in corpus.shards("train"):
        rows = corpus.read_rows(shard.name, 0, len(shard.rows_per_group), columns=("mask",))
        masks = [None if mask is None else decode_mask(mask) for mask in rows.masks]
        found |= dict(zip(rows.sample_ids.tolist(), masks, strict=True))
    return found


def drawn(corpus: PackedCorpus) -> dict[tuple[int, int], ViewParams]:
    """The params of every training view, drawn one by one."""
    images, masks = images_of(corpus), masks_of(corpus)
    return {
        (sample_id, index): draw(
            POLICY,
            seed=VIEW_SEED,
            sample_id=sample_id,
            view_index=index,
            image_size_px=images[sample_id].shape[:2],
            mask_HW=masks[sample_id],
        )
        for sample_id in images
        for index in range(NUM_VIEWS)
    }


def plan_for(corpus: PackedCorpus, teacher: KnownTeacher, cache: Path) -> TargetPlan:
    views = plan_views(corpus, cache, num_views=NUM_VIEWS, policy=POLICY)
    return plan_teacher(teacher, views, corpus, cache, outputs=("summary",))


def stored(plan: TargetPlan) -> dict[tuple[int, int], ViewParams]:
    store = find_view_store(plan.job.cache_uri, plan.job.view_set)
    assert store is not None
    found = {}
    for commit in store.collection.commits().values():
        name = store.collection.object_name(commit, "views.parquet")
        rows = decode_views(store.collection.storage.read(name))
        found |= {(row.sample_id, row.view_index): row.params for row in rows}
    return found


def overridden(corpus: PackedCorpus, path: Path, **columns: Any) -> PackedCorpus:
    """The corpus with a table of overrides for its first training sample."""
    sample_id = min(corpus.members("train").sample_ids.tolist())
    kinds = {"mask": pa.binary(), "caption": pa.string()}
    fields = {name: pa.array([value], kinds[name]) for name, value in columns.items()}
    pq.write_table(pa.table({"sample_id": pa.array([sample_id], pa.uint64()), **fields}), path)
    return open_corpus(corpus.uri, overrides_uri=str(path))


def new_mask(corpus: PackedCorpus) -> bytes:
    """For the first training sample: two classes where there were three."""
    sample_id = min(corpus.members("train").sample_ids.tolist())
    mask = masks_of(corpus)[sample_id].copy()
    mask[:] = 0
    mask[:, : mask.shape[1] // 2] = 9
    return encoded(mask)


def train(corpus: PackedCorpus, plan: TargetPlan, teacher: KnownTeacher, run: Path) -> None:
    """Two epochs in which every view is compared with the digest of the one that the teacher saw."""
    job = train_job(
        corpus,
        plan.view_set,
        teacher,
        losses=(SUMMARY,),
        source={NAMELESS: cached_source(plan, verify_one_in=1)},
        run_uri=run,
        settings=fit_settings(4),
    )
    train_alone(replace(job, stream=replace(job.stream, global_batch_size=8)), device="cpu")


class TestEverybodySeesTheSame:
    def test_extraction_stores_the_views_that_the_masks_decide(
        self, corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
    ) -> None:
        plan = plan_for(corpus, tiny_teacher, tmp_path / "cache")
        extract(plan)
        expected = drawn(corpus)
        assert stored(plan) == expected
        assert len(expected) == NUM_VIEWS * corpus.num_samples("train")

    def test_training_replays_them(self, corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path) -> None:
        plan = plan_for(corpus, tiny_teacher, tmp_path / "cache")
        extract(plan)
        train(corpus, plan, tiny_teacher, tmp_path / "run")
        assert (tmp_path / "run" / "run.json").exists()

    def test_evaluation_draws_by_masks_where_its_policy_does(self, corpus: PackedCorpus) -> None:
        size = Input(size_px=(8, 8))
        found = predict(
            lambda inputs: inputs.flatten(1)[:, :3],
            corpus,
            split="train",
            policy=POLICY,
            size=size,
            batch_size=4,
            device=torch.device("cpu"),
        )
        images, masks = images_of(corpus), masks_of(corpus)
        for sample_id, logits in zip(found.sample_ids.tolist(), found.logits_NK, strict=True):
            params = draw(
                POLICY,
                seed=EVALUATION_VIEW_SEED,
                sample_id=sample_id,
                view_index=0,
                image_size_px=images[sample_id].shape[:2],
                mask_HW=masks[sample_id],
            )
            view = render(images[sample_id], params, size_px=(8, 8), interpolation=size.interpolation)
            expected = (view[0, :3, 0] / 255 - size.mean[0]) / size.std[0]
            np.testing.assert_allclose(logits, expected, atol=1e-5)

    def test_the_sheet_shows_them_before_and_after_packing(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "source", range(NUM_IMAGES))
        config = SegmentationCorpus(
            kind="segmentation",
            uri=str(tmp_path / "source"),
            packed_uri=str(tmp_path / "packed"),
            split=PathSplit(kind="paths"),
        )
        before = training_group(config, num_samples=99, report=lambda _done: None, with_masks=True)
        pack(config)
        corpus = open_corpus(config.packed_uri)
        after = packed_group(corpus, with_masks=True)
        expected = drawn(corpus)
        for group in (before, after):
            assert self.shown(group) == expected

    @staticmethod
    def shown(group: Group) -> dict[tuple[int, int], ViewParams]:
        sheet = contact_sheet(
            group,
            title="",
            notes=(),
            kinds=(
                SheetKind(
                    name=NAMELESS,
                    policy=POLICY,
                    num_views=NUM_VIEWS,
                    eyes=(Eye(names=("student",), size_px=(16, 16), interpolation="bilinear"),),
                ),
            ),
            view_seed=VIEW_SEED,
            num_samples=len(group.samples),
            report=lambda _done: None,
        )
        return {
            (sample.sample_id, view.view_index): view.params
            for sample, row in zip(group.samples, sheet.rows, strict=True)
            for view in row.views
        }

    def test_mixed_views_draw_the_partner_by_its_own_mask(self, corpus: PackedCorpus) -> None:
        mixed = Policy.model_validate({"preset": "paper_seg", "mix": {"mixup_alpha": 1.0}})
        shard = corpus.shards("train")[0]
        rows = corpus.read_rows(shard.name, 0, 1, columns=columns_for(mixed))
        masks, images = masks_of(corpus), images_of(corpus)
        for row in range(len(rows.images)):
            mix = Replay(rows, policy=mixed, seed=VIEW_SEED).view(row, 0).params[-1]
            own = draw(
                mixed,
                seed=VIEW_SEED,
                sample_id=mix.partner,  # type: ignore[union-attr]
                view_index=0,
                image_size_px=images[mix.partner].shape[:2],  # type: ignore[union-attr]
                mask_HW=masks[mix.partner],  # type: ignore[union-attr]
            )
            assert mix.partner_params == own  # type: ignore[union-attr]


class TestChangedMasks:
    def test_overrides_of_masks_are_another_view_set_and_decide_its_views(
        self, corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
    ) -> None:
        plain = plan_for(corpus, tiny_teacher, tmp_path / "cache")
        changed = overridden(corpus, tmp_path / "masks.parquet", mask=new_mask(corpus))
        plan = plan_for(changed, tiny_teacher, tmp_path / "cache")
        assert plan.job.view_set.fingerprint != plain.job.view_set.fingerprint
        extract(plan)
        assert stored(plan) == drawn(changed) != drawn(corpus)
        train(changed, plan, tiny_teacher, tmp_path / "run")

    def test_a_replay_by_the_other_masks_would_be_noticed(
        self, corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
    ) -> None:
        """What the identity guards against: the tests above do tell one mask from another."""
        changed = overridden(corpus, tmp_path / "masks.parquet", mask=new_mask(corpus))
        plan = plan_for(changed, tiny_teacher, tmp_path / "cache")
        extract(plan)
        with pytest.raises(ViewMismatch):
            train(corpus, plan, tiny_teacher, tmp_path / "run")

    def test_overrides_of_anything_else_change_no_view(
        self, corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
    ) -> None:
        plain = plan_for(corpus, tiny_teacher, tmp_path / "cache")
        named = overridden(corpus, tmp_path / "captions.parquet", caption="a street", mask=None)
        assert plan_for(named, tiny_teacher, tmp_path / "cache").job.view_set == plain.job.view_set

    def test_packed_elsewhere_with_other_masks_it_is_another_view_set(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "source", range(NUM_IMAGES))
        one = packed_pairs(tmp_path, name="one")
        for path in (tmp_path / "source" / "train" / "masks").glob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
        other = packed_pairs(tmp_path, name="other")
        assert one.corpus_id == other.corpus_id
        assert one.masks_id("train") != other.masks_id("train")
        assert one.masks_id("test") == other.masks_id("test")

    def test_growth_keeps_the_view_set(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "source", range(NUM_IMAGES))
        before = packed_pairs(tmp_path)
        write_pairs(tmp_path / "source", range(NUM_IMAGES, 2 * NUM_IMAGES))
        after = packed_pairs(tmp_path)
        assert after.num_samples("train") > before.num_samples("train")
        assert after.masks_id("train") == before.masks_id("train")


def without_some_masks(folder: Path) -> PackedCorpus:
    """A Parquet source in which the third and fourth image have no mask."""
    random = np.random.default_rng(0)
    images = [encoded(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(12)]
    mask = encoded(np.tile(np.arange(3, dtype=np.uint8), (20, 10)))
    masks = [None if number in (2, 3) else mask for number in range(12)]
    for split in ("train", "test"):
        (folder / "source" / split).mkdir(parents=True)
    for split, part in (("train", slice(0, 8)), ("test", slice(8, 12))):
        table = pa.table({"image": images[part], "seg": pa.array(masks[part], pa.binary())})
        pq.write_table(table, folder / "source" / split / "0.parquet")
    config = ParquetCorpus(
        kind="parquet",
        uri=str(folder / "source"),
        packed_uri=str(folder / "packed"),
        split=PathSplit(kind="paths", train="train/*.parquet", test="test/*.parquet"),
        label_column=None,
        mask_column="seg",
        row_group_size=4,
    )
    pack(config)
    return open_corpus(config.packed_uri)


class TestMissingMasks:
    def test_are_counted_when_the_run_is_planned(self, tmp_path: Path) -> None:
        corpus = without_some_masks(tmp_path)
        without = [sample_id for sample_id, mask in masks_of(corpus).items() if mask is None]
        assert len(without) == 2
        with pytest.raises(CorpusError, match=r"2 samples have no mask, [0-9a-f]{16} among them") as caught:
            plan_views(corpus, tmp_path / "cache", num_views=2, policy=POLICY)
        assert any(f"{sample_id:016x}" in str(caught.value) for sample_id in without)
        assert "cat_max_ratio: null" in str(caught.value)

    def test_may_come_from_overrides(self, tmp_path: Path) -> None:
        corpus = without_some_masks(tmp_path)
        without = sorted(sample_id for sample_id, mask in masks_of(corpus).items() if mask is None)
        mask = encoded(np.tile(np.arange(3, dtype=np.uint8), (20, 10)))
        table = pa.table({"sample_id": pa.array(without, pa.uint64()), "mask": pa.array([mask] * 2, pa.binary())})
        pq.write_table(table, tmp_path / "masks.parquet")
        complete = open_corpus(corpus.uri, overrides_uri=str(tmp_path / "masks.parquet"))
        assert plan_views(complete, tmp_path / "cache", num_views=2, policy=POLICY).units

    def test_do_not_matter_to_a_policy_that_looks_at_none(self, tmp_path: Path) -> None:
        corpus = without_some_masks(tmp_path)
        crop = POLICY.operations[0].model_copy(update={"cat_max_ratio": None})
        blind = POLICY.model_copy(update={"operations": (crop, *POLICY.operations[1:])})
        plan = plan_views(corpus, tmp_path / "cache", num_views=2, policy=blind)
        refuse_without_masks(corpus, plan.spans, policy=blind)
        assert plan.units

    def test_are_told_by_the_sheet_before_packing(self, tmp_path: Path) -> None:
        write(tmp_path / "images" / "a" / "0.png", encoded(np.zeros((9, 9, 3), np.uint8)))
        config = FolderCorpus(kind="folder", uri=str(tmp_path / "images"), packed_uri=str(tmp_path / "packed"))
        group = training_group(config, num_samples=1, report=lambda _done: None, with_masks=True)
        with pytest.raises(CorpusError, match=r"sample [0-9a-f]{16}: has no mask"):
            TestEverybodySeesTheSame.shown(group)

    def test_of_overrides_are_for_packed_samples(self, tmp_path: Path) -> None:
        config = FolderCorpus(
            kind="folder", uri=str(tmp_path), packed_uri=str(tmp_path / "packed"), overrides_uri=str(tmp_path / "t")
        )
        with pytest.raises(CorpusError, match="Run the pack stage first"):
            training_group(config, num_samples=1, report=lambda _done: None, with_masks=True)
