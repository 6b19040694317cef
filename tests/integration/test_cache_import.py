"""`kd-ray cache import`: features in files become targets that training reads; what is wrong is not committed."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray
from rich.console import Console

from kd_ray.cache.catalog import read_catalog
from kd_ray.config.load import load_recipe
from kd_ray.config.losses import FeatureLoss
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheIncomplete, CorpusError, ModelError, RecipeError
from kd_ray.extraction.job import load_frozen
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import build, train
from pipelines.cache.deep import DeepRequest
from pipelines.cache.import_features import ImportRequest, import_features
from pipelines.cache.recipe_plan import plan_of
from pipelines.cache.verify import verify_cache
from pipelines.stages.extract import _refuse_imported
from tests.support.processes import kd_ray, run
from tests.support.tiny_recipe import write_recipe
from tests.support.tiny_world import cached_sources, files_below, fit_settings, train_job

WIDTH = 6
PLAIN = {"name": "plain", "operations": [{"kind": "center_crop"}]}
SECTION: dict[str, Any] = {
    "model": {"kind": "imported", "name": "vit_of_a_friend", "note": "v1"},
    "weights": None,
    "outputs": {"summary": {"codec": "float16"}, "logits": None},
}
LOSSES = {"losses": [{"kind": "feature", "output": "summary"}]}


class Unwatched:
    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None: ...


def recipe_file(
    folder: Path, corpus: PackedCorpus, teacher: KnownTeacher, *, changes: dict[str, Any] | None = None
) -> Path:
    """A recipe whose only teacher was imported."""
    path = write_recipe(folder, corpus, teacher)
    values = json.loads(path.read_text())
    values["views"] = {**values["views"], "policy": PLAIN, "count": 1}
    values["teacher"] = {**values["teacher"], **SECTION}
    values["train"] |= LOSSES
    values["cache"]["unit_views"] = 1
    for section, change in (changes or {}).items():
        values[section] |= change
    path.write_text(json.dumps(values))
    return path


def features_of(corpus: PackedCorpus, shape: tuple[int, ...] = (WIDTH,)) -> dict[int, tuple[str, NDArray[np.float32]]]:
    """Location and values by sample: multiples of 1/8 that follow from the id, exact in float16."""
    found = {}
    for shard in corpus.shards("train"):
        groups = shard.name, 0, len(shard.rows_per_group)
        ids = corpus.read_rows(*groups, columns=()).sample_ids.tolist()
        for sample_id, location in zip(ids, corpus.locations(*groups), strict=True):
            values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + sample_id % 1009
            found[sample_id] = (location, values / 8)
    return found


def write_features(folder: Path, corpus: PackedCorpus, kinds: str = "npy", **shape: Any) -> Path:
    """One file for each sample, of the kinds in turn."""
    for number, (location, values) in enumerate(features_of(corpus, **shape).values()):
        path = (folder / location).with_suffix("." + kinds.split()[number % len(kinds.split())])
        path.parent.mkdir(parents=True, exist_ok=True)
        match path.suffix:
            case ".npy":
                np.save(path, values)
            case ".pt":
                torch.save({"cls": torch.from_numpy(values)} if number % 2 else torch.from_numpy(values), path)
            case ".safetensors":
                safetensors.numpy.save_file({"cls": values}, path)
    return folder


def imported(path: Path, features: Path, **request: Any) -> None:
    asked = ImportRequest(features_uri=str(features), **request)
    import_features(load_recipe(path, []), asked, console=Console(), as_json=False)


def plan_from(path: Path) -> TargetPlan:
    """What an ordinary run would plan."""
    (plan,) = plan_of(load_recipe(path, []))[1].all
    return plan


def stored(plan: TargetPlan) -> dict[int, NDArray[Any]]:
    """Values by sample as the cache reads them."""
    (output,) = read_catalog(plan.job.cache_uri).outputs.values()
    found = {}
    for commit in output.collection.commits().values():
        ids = output.sample_ids(commit)
        found |= dict(zip(ids.tolist(), output.read(commit, view_index=0, sample_ids=ids), strict=True))
    return found


def test_imported_features_are_what_a_student_is_trained_from(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    imported(path, write_features(tmp_path / "features", tiny_corpus, "npy pt safetensors"))
    plan = plan_from(path)
    assert not plan.missing
    found, expected = stored(plan), features_of(tiny_corpus)
    assert found.keys() == expected.keys()
    for sample_id, (_, values) in expected.items():
        np.testing.assert_array_equal(found[sample_id], values)

    known = KnownTeacher(
        name="teacher",
        config=plan.job.teacher,
        num_classes=None,
        weights_uri=None,
        weights_fingerprint=plan.job.weights_fingerprint,
        shapes={"summary": (WIDTH,)},
        num_parameters=0,
    )
    job = train_job(
        tiny_corpus,
        plan.view_set,
        known,
        losses=(FeatureLoss(kind="feature", output="summary"),),
        source=cached_sources(plan),  # every view is rendered again and compared with what the import stored
        run_uri="never-written",
        settings=fit_settings(16),
    )
    result = train(job, build(job), corpus=tiny_corpus, worker=0, num_workers=1, hooks=Unwatched(), resume=None)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert len(losses) == 16
    assert losses[-1] < losses[0]

    with pytest.raises(ModelError, match="no network that could compute others"):
        load_frozen(plan.job, device="cpu", batch_size=8)
    with pytest.raises(RecipeError, match="its teacher was imported"):
        verify_cache(plan.job.cache_uri, None, deep=DeepRequest(recipe=path), console=Console(), as_json=False)
    assert verify_cache(plan.job.cache_uri, None, console=Console(), as_json=False) == 0


def test_a_second_import_commits_nothing_and_a_broken_one_goes_on(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    features = write_features(tmp_path / "features", tiny_corpus)
    imported(path, features)
    before = files_below(tmp_path / "cache")
    imported(path, features)
    assert files_below(tmp_path / "cache") == before
    records = sorted((tmp_path / "cache" / "targets").glob("*/*/commits/*.json"))
    records[0].unlink()  # as it is where the unit was written and not committed
    imported(path, features)
    assert records[0].exists()
    assert not plan_from(path).missing


def test_other_features_are_another_teacher(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    imported(path, write_features(tmp_path / "one", tiny_corpus))
    digest = plan_from(path).job.weights_fingerprint
    two = write_features(tmp_path / "two", tiny_corpus)
    location, values = next(iter(features_of(tiny_corpus).values()))
    np.save((two / location).with_suffix(".npy"), values + 1)
    imported(path, two)
    with pytest.raises(RecipeError, match="holds 2 imports of vit_of_a_friend"):
        plan_from(path)
    model = {**SECTION["model"], "digest": digest[:12]}
    assert plan_from(recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes={"teacher": {"model": model}})).job == (
        plan_from(recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes={"teacher": {"model": {**model}}})).job
    )
    other = {**SECTION["model"], "note": "v2"}
    changed = recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes={"teacher": {"model": other}})
    with pytest.raises(RecipeError, match="holds no features that were imported as vit_of_a_friend"):
        plan_from(changed)


def test_views_that_were_not_imported_cannot_be_computed(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    imported(path, write_features(tmp_path / "features", tiny_corpus))
    padded = {"policy": {"name": "padded", "operations": [{"kind": "resize_pad"}]}}
    plan = plan_from(recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes={"views": padded}))
    with pytest.raises(CacheIncomplete, match="are missing for padded with seed 3, and nothing can compute them"):
        _refuse_imported([plan])


@pytest.mark.parametrize("codec", ["int8", "float32"])
def test_spatial_features_have_a_grid(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, codec: str
) -> None:
    outputs = {"outputs": {"spatial": {"codec": codec}}}
    changes = {"teacher": outputs, "train": {"losses": [{"kind": "feature", "output": "spatial"}]}}
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes=changes)
    features = write_features(tmp_path / "features", tiny_corpus, shape=(6, WIDTH))
    with pytest.raises(CorpusError, match=r"\[6, 6\], expected \[height, width, channels\]"):
        imported(path, features)
    with pytest.raises(CorpusError, match="6 tokens, the grid 2x2 has 4"):
        imported(path, features, grid="2x2")
    with pytest.raises(RecipeError, match="--grid: got 2x"):
        imported(path, features, grid="2x")
    imported(path, features, grid="2x3")
    found = stored(plan_from(path))
    for sample_id, (_, values) in features_of(tiny_corpus, (2, 3, WIDTH)).items():
        np.testing.assert_allclose(found[sample_id], values, atol=0.5 if codec == "int8" else 0)


def test_a_table_and_a_key_say_where_features_are(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    features = tmp_path / "features"
    features.mkdir()
    expected = features_of(tiny_corpus)
    everything = {f"{sample_id:016x}": values for sample_id, (_, values) in expected.items()}
    safetensors.numpy.save_file(everything, features / "all.safetensors")
    table = tmp_path / "table.csv"
    rows = [f"{location},all.safetensors,{sample_id:016x}" for sample_id, (location, _) in expected.items()]
    table.write_text("\n".join(["location,file,key", *rows]))
    imported(path, features, mapping_uri=str(table))
    found = stored(plan_from(path))
    np.testing.assert_array_equal(np.stack([found[each] for each in expected]), [each for _, each in expected.values()])
    table.write_text("\n".join(["location,file,key", *rows[1:]]))
    with pytest.raises(
        CorpusError, match=r"1 samples have no features .* 1 without a file, the first is .* not in the"
    ):
        imported(path, features, mapping_uri=str(table))
    table.write_text("a,b\n1,2\n")
    with pytest.raises(CorpusError, match="got a, b, expected rows with columns location, file"):
        imported(path, features, mapping_uri=str(table))


class Executed:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("executed"),)


def test_every_kind_of_mistake_is_counted_and_nothing_is_written(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    features = write_features(tmp_path / "features", tiny_corpus)
    files = [(features / location).with_suffix(".npy") for location, _ in features_of(tiny_corpus).values()]
    files[1].unlink()
    files[2].unlink()
    np.save(files[3], np.zeros((2, WIDTH), np.float32))
    np.save(files[4], np.array([np.nan] * WIDTH, np.float32))
    np.save(files[5], np.array([Executed()], object), allow_pickle=True)
    files[6].unlink()
    files[6].with_suffix(".pt").write_bytes(pickle.dumps(Executed(), protocol=2))
    files[7].write_bytes(files[7].read_bytes()[:-3])
    np.save(files[8], np.zeros(WIDTH, np.int64))
    np.save(files[9], np.zeros(WIDTH + 1, np.float32))
    files[10].with_suffix(".safetensors").write_bytes(b"")
    with pytest.raises(CorpusError) as caught:
        imported(path, features)
    told = str(caught.value)
    assert "10 samples have no features" in told
    for part in (
        "2 without a file",
        "2 of another shape",
        "1 not finite",
        "2 pickled",
        "1 unreadable",
        "1 of another type",
        "1 with several files",
        "Nothing was written",
    ):
        assert part in told
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "executed").exists()


def test_random_views_are_refused_unless_they_were_replayed(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    random = {"policy": {"name": "weak", "operations": [{"kind": "random_resized_crop"}]}, "count": 2}
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes={"views": random})
    features = write_features(tmp_path / "features", tiny_corpus, shape=(2, WIDTH))
    with pytest.raises(RecipeError, match="weak draws at random"):
        imported(path, features)
    imported(path, features, replayed=True)
    (output,) = read_catalog(str(tmp_path / "cache")).outputs.values()
    expected = features_of(tiny_corpus, (2, WIDTH))
    for commit in output.collection.commits().values():
        ids = output.sample_ids(commit)
        view = commit.unit.view_start
        values = output.read(commit, view_index=view, sample_ids=ids)
        np.testing.assert_array_equal(values, [expected[each][1][view] for each in ids.tolist()])
    twice = recipe_file(tmp_path, tiny_corpus, tiny_teacher, changes={"views": {"count": 2}})
    with pytest.raises(RecipeError, match="every view of plain is the same"):
        imported(twice, features)


def test_the_command_and_what_a_recipe_may_not_say(
    tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher
) -> None:
    path = recipe_file(tmp_path, tiny_corpus, tiny_teacher)
    features = write_features(tmp_path / "features", tiny_corpus)
    command = [sys.executable, "-c", "from kd_ray.cli import main; main()", "cache", "import", str(path)]
    done = run([*command, "--features", str(features), "--json"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["samples"], told["shape"]) == (tiny_corpus.num_samples("train"), [WIDTH])
    assert told["units"] == told["units_written"] > 0
    # an ordinary run finds it: nothing is packed, loaded or computed, and Ray is not started
    done = run([*kd_ray(str(path)), "--stages", "finetune,plan,report"])
    assert "teacher: vit_of_a_friend (imported), features " in done.stdout, done.stdout + done.stderr
    assert "nothing to run, all" in done.stdout
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["teacher.weights=w.safetensors", "teacher.outputs.logits={}"])
    assert "an imported teacher has none" in str(caught.value)
    assert "files give one output, got summary, logits" in str(caught.value)
    with pytest.raises(RecipeError, match="an imported teacher cannot run live"):
        load_recipe(path, ["train.targets=live"])
    with pytest.raises(RecipeError, match="got 0 imported teachers called other"):
        imported(path, features, teacher="other")
