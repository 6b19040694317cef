"""An added teacher must see the views that are stored: it compares a share of them, and stops where they differ."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kd_ray.cache.view_store import VIEWS_OBJECT, find_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt, ViewMismatch
from kd_ray.extraction.plan import TargetPlan
from kd_ray.views import Proof, decode_views
from tests.integration.test_unit_extractor import PixelTeacher, extractor_with
from tests.support.tiny_world import (
    extract,
    files_below,
    pack_images,
    plan_teacher,
    plan_views,
    save_teacher,
    write_images,
)

NEVER = 10**18
KEPT = KeptFormat(size_px=(40, 40), codec="jpeg", quality=90)
Change = Callable[[list[Proof]], list[Proof]]


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    """36 images in 3 classes: a smaller corpus than elsewhere."""
    folder = tmp_path_factory.mktemp("smaller_corpus")
    write_images(folder / "source", per_class=12)
    return pack_images(folder / "source", folder / "packed")


@pytest.fixture(params=[None, KEPT], ids=["params", "pixels"])
def plan_for(request, tiny_corpus: PackedCorpus, tiny_teacher, tmp_path: Path) -> Callable[..., TargetPlan]:
    def plan(*, teacher=tiny_teacher, verify_one_in: int = 1, corpus: PackedCorpus = tiny_corpus) -> TargetPlan:
        views = plan_views(corpus, tmp_path / "cache", num_views=2, unit_row_groups=4, kept=request.param)
        return plan_teacher(
            teacher, views, corpus, tmp_path / "cache", outputs=("logits",), verify_one_in=verify_one_in
        )

    return plan


@pytest.fixture
def second(tmp_path: Path):
    return save_teacher(tmp_path, seed=1, name="second")


def neighbours(proofs: list[Proof]) -> list[Proof]:
    """Each view with the proof of the next one."""
    return [*proofs[1:], proofs[0]]


def another_decoder(proofs: list[Proof]) -> list[Proof]:
    """Other digests, and thumbnails that differ by one level."""
    return [Proof(digest=bytes(16), thumbnail=bytes(each ^ 1 for each in proof.thumbnail or b"")) for proof in proofs]


def wrong_from_the_second_on(proofs: list[Proof]) -> list[Proof]:
    return [proofs[0], *neighbours(proofs[1:])]


def change_proofs(plan: TargetPlan, change: Change) -> None:
    """Store the same views, params and pixels with other proofs."""
    store = find_view_store(plan.job.cache_uri, plan.job.view_set)
    assert store is not None
    storage = store.collection.storage
    for unit, commit in store.collection.commits().items():
        rows = decode_views(storage.read(store.collection.object_name(commit, VIEWS_OBJECT)))
        proofs = change([row.proof for row in rows])
        ids = np.array([row.sample_id for row in rows[: commit.num_rows]], np.uint64)
        pixels = None
        if plan.job.kept is not None:
            indices = range(unit.view_start, unit.view_stop)
            pixels = [data for index in indices for data in store.pixels(commit, index, sample_ids=ids)]
        storage.remove(f"{store.collection.folder}/commits/{unit.id}.0.json")
        changed = [replace(row, proof=proof) for row, proof in zip(rows, proofs, strict=True)]
        assert store.write(unit, changed, ids, attempt="changed", pixels=pixels)


def test_equal_views_are_the_ones_and_are_not_written_again(plan_for, second, tmp_path: Path) -> None:
    extract(plan_for())
    views = files_below(tmp_path / "cache" / "views")
    reports = extract(plan_for(teacher=second))
    assert [report.num_rounded for report in reports] == [0] * len(reports)
    assert sum(report.num_forwards for report in reports) > 0
    assert files_below(tmp_path / "cache" / "views") == views


@pytest.mark.parametrize("verify_one_in", [1, NEVER])
def test_other_views_stop_it_and_leave_nothing_behind(plan_for, second, verify_one_in: int, tmp_path: Path) -> None:
    """However small the share, one view of every unit is compared."""
    extract(plan_for())
    change_proofs(plan_for(), neighbours)
    with pytest.raises(ViewMismatch, match=r"sample [0-9a-f]{16}, view 0: the replayed view is not the one"):
        extract(plan_for(teacher=second, verify_one_in=verify_one_in))
    assert not [
        name
        for name in files_below(tmp_path / "cache" / "targets")
        if name.startswith("second") and "/commits/" in name
    ]


def test_no_more_than_the_share_is_compared(plan_for, second) -> None:
    extract(plan_for())
    change_proofs(plan_for(), wrong_from_the_second_on)
    reports = extract(plan_for(teacher=second, verify_one_in=NEVER))
    assert sum(report.num_forwards for report in reports) > 0


@pytest.mark.parametrize("verify_one_in", [1, NEVER])
def test_views_of_another_decoder_are_counted(plan_for, second, verify_one_in: int) -> None:
    extract(plan_for())
    change_proofs(plan_for(), another_decoder)
    for report in extract(plan_for(teacher=second, verify_one_in=verify_one_in)):
        assert report.num_rounded == (report.num_views if verify_one_in == 1 else 1)


class Overtaken(PixelTeacher):
    """While it computes, another attempt commits the same views, and `change` is made to their proofs."""

    def __init__(self, plan: TargetPlan, corpus: PackedCorpus, change: Change) -> None:
        super().__init__()
        self._plan, self._corpus, self._change = plan, corpus, change

    def __call__(self, pixels_BHWC: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        quick = extractor_with(PixelTeacher(), self._plan, self._corpus)
        quick(self._plan.missing[0], attempt="quick")
        change_proofs(self._plan, self._change)
        return super().__call__(pixels_BHWC)


def test_the_loser_of_a_race_compares_its_views_with_those_that_stand(plan_for, tiny_corpus: PackedCorpus) -> None:
    plan = plan_for()
    slow = extractor_with(Overtaken(plan, tiny_corpus, another_decoder), plan, tiny_corpus, batch_size=1000)
    report = slow(plan.missing[0], attempt="slow")
    assert report.num_rounded == report.num_views


def test_the_loser_of_a_race_to_other_views_stops(plan_for, tiny_corpus: PackedCorpus) -> None:
    plan = plan_for()
    slow = extractor_with(Overtaken(plan, tiny_corpus, neighbours), plan, tiny_corpus, batch_size=1000)
    with pytest.raises(ViewMismatch):
        slow(plan.missing[0], attempt="slow")


def test_views_of_other_samples_are_refused(plan_for, tiny_corpus: PackedCorpus, tmp_path: Path) -> None:
    plan = plan_for()
    extractor_with(PixelTeacher(), plan, tiny_corpus)(plan.missing[0], attempt="a")
    store = find_view_store(plan.job.cache_uri, plan.job.view_set)
    assert store is not None
    other = pack_images(Path(tiny_corpus.uri).parent / "source", tmp_path / "packed", seed=1)
    again = replace(plan, job=replace(plan.job, target_set=replace(plan.job.target_set, name="again")))
    with pytest.raises(CacheCorrupt, match="was made from other samples than the corpus holds there"):
        extractor_with(PixelTeacher(), again, other)(plan.missing[0], attempt="b")
