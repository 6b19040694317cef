"""A training loop of one's own over a cache: the views and targets of the training stage, and exact resume."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import kd_ray.cache
from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheIncomplete, CorpusError, FingerprintMismatch, KdRayError, RecipeError
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.batches import BatchStream
from kd_ray.training.dataset import CacheDataset
from kd_ray.training.encoded import EncodedTargets
from kd_ray.training.loader import CacheLoader
from kd_ray.training.losses.labels import NO_LABEL
from kd_ray.training.snapshot import full_order
from tests.support.kinds_world import NUM_CROPS, NUM_DRAWS, plan_all, with_kinds
from tests.support.own_loop import NUM_VIEWS, assert_same, fill, seen
from tests.support.tiny_world import (
    MIXED_POLICY,
    POLICY,
    STUDENT_SIZE_PX,
    cached_source,
    extract,
    pack_images,
    save_teacher,
    stream_settings,
    write_images,
)

# more workers than this machine has cores
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes")

BATCH_SIZE, NUM_LANES = 8, 4
KEPT = KeptFormat(size_px=(40, 36), codec="jpeg", quality=90)

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def plan(tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path_factory: pytest.TempPathFactory) -> TargetPlan:
    return fill(tiny_corpus, tiny_teacher, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def cache_uri(plan: TargetPlan) -> str:
    return plan.job.cache_uri


def make(uri: str, *, corpus: str | PackedCorpus | None = None, **arguments: Any) -> CacheDataset:
    given = {"outputs": ["logits"], "batch_size": BATCH_SIZE, "num_lanes": NUM_LANES, **arguments}
    return kd_ray.cache.open(uri, corpus=corpus).torch_dataset(size_px=STUDENT_SIZE_PX, **given)


def take(loader: CacheLoader, count: int) -> list[Batch]:
    """The next batches, over the ends of epochs."""
    found: list[Batch] = []
    while len(found) < count:
        found += islice(loader, count - len(found))
    return found


@pytest.mark.parametrize(
    ("policy", "kept"), [(POLICY, None), (MIXED_POLICY, None), (MIXED_POLICY, KEPT)], ids=["plain", "mixed", "kept"]
)
def test_views_labels_and_targets_are_those_of_the_training_stage(
    policy: Policy, kept: KeptFormat | None, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    plan = fill(tiny_corpus, tiny_teacher, tmp_path, policy=policy, kept=kept)
    source = cached_source(plan)
    targets = source.open(torch.device("cpu"))
    stream = BatchStream(
        stream_settings(num_views=NUM_VIEWS, policy=policy, kept=kept),
        full_order(tiny_corpus, plan.view_set.spans, seed=1, num_lanes=4, window=2),
        corpus=tiny_corpus,
        usable_labels=None,
        targets={"": targets},
        views={"": targets.stored_views(kept)} if kept else None,
    )
    wanted: dict[tuple[int, int], tuple[Any, ...]] = {}
    batches = stream.batches(worker=0, num_workers=1, consumed=0)
    for batch in islice(batches, (NUM_VIEWS + 1) * tiny_corpus.num_samples("train") // 16):
        (part,) = batch.parts
        logits, spatial = (part.targets["teacher", name].to(torch.device("cpu")) for name in ("logits", "spatial"))
        assert isinstance(logits, torch.Tensor)
        assert isinstance(spatial, torch.Tensor)
        labels = (part.labels.own_B, part.labels.partner_B, part.labels.weights_B)
        for row, key in enumerate(zip(part.sample_ids_B.tolist(), part.view_indices_B.tolist(), strict=True)):
            wanted[key] = tuple(each[row] for each in (part.inputs_BCHW, logits, spatial, *labels))
    batches.close()

    loader = make(str(tmp_path), outputs=None, keep_last=True, verify_one_in=1).loader()
    found = {}
    for _ in range(NUM_VIEWS):
        for item in loader:
            of_batch = (item["image"], item["targets"]["logits"], item["targets"]["spatial"])
            labels = (item["label"], item["partner_label"], item["label_weight"])
            found |= {key: tuple(each[row] for each in (*of_batch, *labels)) for row, key in enumerate(seen(item))}
            assert set(item["targets"]) == {"summary", "spatial", "logits"}
    assert len(found) == NUM_VIEWS * tiny_corpus.num_samples("train")
    for key, values in found.items():
        assert all(torch.equal(one, other) for one, other in zip(values, wanted[key], strict=True)), key
    mixes = sum(int(values[4] != NO_LABEL) for values in found.values())
    assert (mixes > 0) == (policy is MIXED_POLICY)


@pytest.fixture(scope="module")
def undisturbed(cache_uri: str) -> list[Batch]:
    """Two epochs and a half, made in this process."""
    loader = make(cache_uri).loader()
    return take(loader, 5 * len(loader) // 2)


def test_an_epoch_has_every_sample_once_and_the_next_epoch_the_next_view(
    cache_uri: str, tiny_corpus: PackedCorpus
) -> None:
    everyone = sorted(tiny_corpus.members("train").sample_ids.tolist())
    loader = make(cache_uri, keep_last=True).loader()
    orders = []
    for epoch in range(NUM_VIEWS + 1):
        drawn = [pair for batch in loader for pair in seen(batch)]
        assert sorted(sample_id for sample_id, _ in drawn) == everyone
        assert {view for _, view in drawn} == {epoch % NUM_VIEWS}
        orders.append([sample_id for sample_id, _ in drawn])
    assert len({str(each) for each in orders}) == len(orders)
    other_seed = [pair[0] for batch in make(cache_uri, keep_last=True, seed=1).loader() for pair in seen(batch)]
    assert sorted(other_seed) == everyone
    assert other_seed != orders[0]


def test_without_keep_last_an_epoch_leaves_out_what_fills_no_batch(
    cache_uri: str, undisturbed: list[Batch], tiny_corpus: PackedCorpus
) -> None:
    loader = make(cache_uri).loader()
    assert len(loader) == tiny_corpus.num_samples("train") // BATCH_SIZE
    first = [pair for batch in undisturbed[: len(loader)] for pair in seen(batch)]
    assert len(set(first)) == len(loader) * BATCH_SIZE


@pytest.mark.parametrize(("num_workers", "context"), [(2, None), (4, None), (1, "spawn")])
def test_the_number_of_workers_changes_nothing(
    num_workers: int, context: str | None, cache_uri: str, undisturbed: list[Batch]
) -> None:
    loader = make(cache_uri).loader(num_workers=num_workers, multiprocessing_context=context)
    for found, wanted in zip(take(loader, len(undisturbed)), undisturbed, strict=True):
        assert_same(found, wanted)


def test_resuming_after_any_batch_with_other_workers_gives_exactly_the_rest(
    cache_uri: str, undisturbed: list[Batch]
) -> None:
    loader = make(cache_uri).loader(num_workers=2)  # which make batches ahead
    states = [json.dumps(loader.state_dict()), *(json.dumps(loader.state_dict()) for _ in _batches_of(loader, 20))]
    resumed = make(cache_uri).loader()
    for step, state in enumerate(states):
        resumed.load_state_dict(json.loads(state))
        assert_same(take(resumed, 1)[0], undisturbed[step])
    resumed = make(cache_uri).loader(num_workers=4)
    resumed.load_state_dict(json.loads(states[7]))
    for found, wanted in zip(take(resumed, len(undisturbed) - 7), undisturbed[7:], strict=True):
        assert_same(found, wanted)


def _batches_of(loader: CacheLoader, count: int) -> Any:
    left = count
    while left:
        for batch in loader:
            yield batch
            left -= 1
            if not left:
                return


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_an_epoch_and_their_number_may_change(
    num_workers: int, cache_uri: str, undisturbed: list[Batch]
) -> None:
    two = [make(cache_uri, rank=rank, num_ranks=2).loader(num_workers=num_workers) for rank in range(2)]
    shares = [take(loader, 3) for loader in two]
    for step in range(3):
        for rank in range(2):
            assert_same(_without_position(shares[rank][step]), _without_position(undisturbed[2 * step + rank]))
    assert two[0].state_dict() == two[1].state_dict()
    alone = make(cache_uri).loader()
    alone.load_state_dict(two[0].state_dict())
    assert_same(take(alone, 1)[0], undisturbed[6])
    four = [make(cache_uri, rank=rank, num_ranks=4).loader() for rank in range(4)]
    for rank, loader in enumerate(four):
        loader.load_state_dict(alone.state_dict())
        assert_same(_without_position(take(loader, 1)[0]), _without_position(undisturbed[7 + rank]))


def _without_position(batch: Batch) -> Batch:
    """Which says how many ranks there were."""
    return {**batch, "position": torch.zeros(2)}


def test_leaving_an_epoch_early_goes_on_where_it_was_left(cache_uri: str, undisturbed: list[Batch]) -> None:
    loader = make(cache_uri).loader(num_workers=2)
    found = [*islice(loader, 3), *islice(loader, 4), *loader]
    assert len(found) == len(loader)
    for batch, wanted in zip(found, undisturbed, strict=False):
        assert_same(batch, wanted)


def test_an_ordinary_dataloader_is_told_the_epoch(cache_uri: str, undisturbed: list[Batch]) -> None:
    dataset = make(cache_uri)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    found = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        found += list(loader)
    for batch, wanted in zip(found, undisturbed, strict=False):
        assert_same(batch, wanted)
    assert len(found) == 2 * len(dataset)


def test_targets_may_stay_as_they_are_stored(cache_uri: str, undisturbed: list[Batch]) -> None:
    batch = take(make(cache_uri, decode=False).loader(num_workers=1), 1)[0]
    logits = batch["targets"]["logits"]
    assert isinstance(logits, EncodedTargets)
    assert torch.equal(logits.to(torch.device("cpu")), undisturbed[0]["targets"]["logits"])  # type: ignore[arg-type]


def test_two_teachers_are_told_apart(
    plan: TargetPlan, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    uri = str(tmp_path / "cache")
    fill(tiny_corpus, tiny_teacher, uri)
    fill(tiny_corpus, save_teacher(tmp_path, seed=1, name="other"), uri)
    with pytest.raises(RecipeError, match=r"several target sets: .*other-.*teacher-.* Give one of these as teacher"):
        make(uri)
    batch = take(make(uri, teacher=["teacher", "other"]).loader(), 1)[0]
    for teacher in ("teacher", "other"):
        (alone,) = take(make(uri, teacher=teacher).loader(), 1)
        assert torch.equal(batch["targets"][teacher, "logits"], alone["targets"]["logits"])
    folders = list(kd_ray.cache.open(uri).target_sets)
    (by_folder,) = take(make(uri, teacher=folders[0]).loader(), 1)
    assert torch.equal(by_folder["targets"]["logits"], batch["targets"]["other", "logits"])
    assert not torch.equal(batch["targets"]["other", "logits"], batch["targets"]["teacher", "logits"])


def test_a_grown_cache_is_read_as_it_was_when_a_run_goes_on(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path, undisturbed: list[Batch], cache_uri: str
) -> None:
    fewer = make(cache_uri, num_views=2).loader()
    wanted = take(fewer, 3 * len(fewer))  # three epochs of two views
    again = make(cache_uri, num_views=2).loader()
    take(again, 5)
    now = make(cache_uri).loader(num_workers=2)
    take(now, 1)  # its workers run already
    now.load_state_dict(again.state_dict())
    for found, each in zip(take(now, len(wanted) - 5), wanted[5:], strict=True):
        assert_same(found, each)


REFUSED: Mapping[str, tuple[dict[str, Any], type[KdRayError], str]] = {
    "teacher": ({"teacher": "nobody"}, RecipeError, r"no teacher is called 'nobody'. There are teacher-"),
    "output": ({"outputs": ["depth"]}, RecipeError, r"output 'depth' is not stored. There are logits-"),
    "a word for outputs": ({"outputs": "logits"}, RecipeError, r"a word; give a list"),
    "split": ({"split": "val"}, RecipeError, r"holds no targets of split 'val'. It holds teacher-"),
    "views": ({"views": "strong"}, RecipeError, r"with views 'strong'"),
    "num_views": ({"num_views": 9}, CacheIncomplete, r"9 views of each sample are wanted, 3 are stored"),
    "values": (
        {"batch_size": 0, "std": (0.0, 1.0, 1.0), "interpolation": "best"},
        RecipeError,
        r"interpolation: got 'best'.*batch_size: got 0",
    ),
    "rank": ({"rank": 2, "num_ranks": 2}, RecipeError, r"must be below num_ranks = 2"),
    "half a rank": ({"rank": 0}, RecipeError, r"belongs together with num_ranks"),
    "too few samples": ({"batch_size": 500}, RecipeError, r"make 0 batches of 500"),
    "keep_last": ({"keep_last": True, "rank": 0, "num_ranks": 2}, RecipeError, r"Leave keep_last out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_paragraph(case: str, cache_uri: str) -> None:
    arguments, kind, told = REFUSED[case]
    with pytest.raises(kind, match=told) as raised:
        make(cache_uri, **arguments)
    assert "\n" not in str(raised.value)


def test_lanes_that_cannot_be_dealt_are_refused(cache_uri: str) -> None:
    dataset = make(cache_uri, rank=0, num_ranks=2)
    with pytest.raises(RecipeError, match=r"num_lanes is 4, not a multiple of 2 ranks times 3 workers"):
        dataset.loader(num_workers=3)


def test_another_corpus_is_refused(cache_uri: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=8, seed=9)
    other = pack_images(tmp_path / "images", tmp_path / "packed")
    with pytest.raises(CorpusError, match=rf"{other.uri}: is corpus .* Give the corpus that the cache was built from"):
        make(cache_uri, corpus=other.uri)
    with pytest.raises(CorpusError, match="no packed corpus there"):
        make(cache_uri, corpus=str(tmp_path / "nowhere"))


def test_a_cache_that_does_not_say_where_its_corpus_is_needs_it(
    cache_uri: str, tiny_corpus: PackedCorpus, tmp_path: Path
) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache_uri, copy)
    (file,) = copy.glob("views/*/view_set.json")
    document = json.loads(file.read_text())
    assert document["recorded"].pop("corpus_uri") == tiny_corpus.uri
    file.write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=r"does not say where its packed corpus lies. Give it: open\(uri, corpus=…\)"):
        make(str(copy))
    assert make(str(copy), corpus=tiny_corpus).num_samples == tiny_corpus.num_samples("train")
    document["recorded"]["corpus_uri"] = str(tmp_path / "moved")
    file.write_text(json.dumps(document))
    with pytest.raises(CorpusError, match=r"no packed corpus there.* where it was moved, give open"):
        make(str(copy))
    assert make(str(copy), corpus=tiny_corpus.uri).num_views == NUM_VIEWS

    (commit, *_) = copy.glob("targets/*/logits-*/commits/*.json")
    commit.unlink()
    with pytest.raises(CacheIncomplete, match=r"1 of \d+ units are not committed, the first is train-"):
        make(str(copy), corpus=tiny_corpus)


def test_a_state_of_another_order_is_refused(cache_uri: str) -> None:
    state = make(cache_uri).loader().state_dict()
    with pytest.raises(FingerprintMismatch, match=r"the state to go on from has seed 0, this dataset 1"):
        make(cache_uri, seed=1).loader().load_state_dict(state)


def test_damage_reaches_the_loop_from_a_worker(cache_uri: str, tiny_corpus: PackedCorpus, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache_uri, copy)
    for values in filter(Path.is_file, copy.glob("targets/*/logits-*/units/*/*/values/**/*")):
        data = bytearray(values.read_bytes())
        data[len(data) // 3] ^= 1
        values.write_bytes(bytes(data))
    loader = make(str(copy), corpus=tiny_corpus).loader(num_workers=1)
    with pytest.raises(KdRayError, match="Run kd-ray cache repair"):
        take(loader, len(loader))


def test_opening_a_cache_needs_no_torch(cache_uri: str) -> None:
    program = (
        "import sys, kd_ray.cache; "
        f"sets = kd_ray.cache.open({cache_uri!r}).target_sets; "
        "print([sorted(o.spec.name for o in each.outputs.values()) for each in sets.values()]); "
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[['logits', 'spatial', 'summary']]"


def test_a_dataset_travels(cache_uri: str, undisturbed: list[Batch]) -> None:
    dataset = make(cache_uri)
    next(iter(dataset.loader()))  # what is open does not travel along
    travelled: CacheDataset = pickle.loads(pickle.dumps(dataset))
    assert_same(next(iter(travelled.loader())), undisturbed[0])


def test_each_kind_of_views_is_a_dataset_of_its_own(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    plans = plan_all(with_kinds(tiny_teacher), tiny_corpus, tmp_path)
    for each in plans.values():
        extract(each)
    uri = str(tmp_path)
    with pytest.raises(
        RecipeError, match=r"several target sets: .*tiny_kinds_narrow.* a part of the name of its views"
    ):
        make(uri)
    narrow = make(uri, views="narrow")
    assert narrow.num_views == NUM_DRAWS * NUM_CROPS
    (batch,) = take(narrow.loader(), 1)
    assert batch["image"].shape == (BATCH_SIZE, 3, *STUDENT_SIZE_PX)
    assert make(uri, views="wide").num_views == NUM_DRAWS


def test_a_damaged_identity_is_told_where_nothing_else_is_found(
    cache_uri: str, tiny_corpus: PackedCorpus, tmp_path: Path
) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache_uri, copy)
    (file,) = copy.glob("targets/*/target_set.json")
    file.write_text(file.read_text().replace("corpus_id", "corpus_ix"))
    with pytest.raises(RecipeError, match=r"holds no targets of split 'train'.*What is damaged.*target_set.json"):
        make(str(copy), corpus=tiny_corpus)


def test_workers_start_where_opencv_has_run_threads(cache_uri: str) -> None:
    """In a process of its own: what a fork does with OpenCV's pool would else hang this one."""
    program = f"""
import cv2, numpy, kd_ray.cache
cv2.setNumThreads(4)
cv2.GaussianBlur(numpy.zeros((3000, 3000, 3), numpy.uint8), (0, 0), 3)
dataset = kd_ray.cache.open({cache_uri!r}).torch_dataset(size_px=16, batch_size=4, num_lanes=2)
print(sum(len(batch["label"]) for batch in dataset.loader(num_workers=2)), cv2.getNumThreads())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    num_samples, num_threads = map(int, done.stdout.split())
    assert num_samples > 8
    assert num_threads == 4
