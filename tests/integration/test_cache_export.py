"""`kd-ray cache export`: what plain tools read of it is what the cache holds, bit for bit, and the card says how."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from rich.console import Console

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.codecs import Coding
from kd_ray.cache.export import Format, Labels
from kd_ray.cache.export_card import Said
from kd_ray.cache.spec import output_spec
from kd_ray.cache.target_set import Output, open_output
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheCorrupt, RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.extraction.repair import path_of_output
from kd_ray.views import params_to_json
from pipelines.cache.export import ExportRequest, export_output
from tests.support.processes import run
from tests.support.tiny_cache import IDS, values_of
from tests.support.tiny_recipe import filled, write_recipe
from tests.support.tiny_world import files_below
from tests.support.whole_cache import UNITS, WholeCache, write_cache

SHAPE = (2, 2, 12)
CODINGS = {
    **{
        name: Coding(codec=name, shape=SHAPE)
        for name in ("float32", "float16", "bfloat16", "int8")  # type: ignore[arg-type]
    },
    "uint8": Coding(codec="uint8", shape=(12,)),
    "top_k": Coding(codec="top_k", shape=(12,), k=3, temperatures=(1.0, 2.0)),
}
FORMATS: tuple[Format, ...] = ("parquet", "webdataset")


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    return write_cache(str(tmp_path / "cache"))


def with_output(cache: WholeCache, coding: Coding) -> Output:
    """One more output of the target set, on all units."""
    spec = output_spec("spatial", coding=coding, stage=-1)
    output = open_output(cache.uri, cache.outputs["summary"].target_set, spec, create=True)
    if output.must_be_calibrated():
        output.calibrate(values_of(UNITS[0], shape=coding.shape))
    for each in UNITS:
        output.write(each, values_of(each, shape=coding.shape), IDS, attempt="a0")
    return output


def export(cache_uri: str, name: str, to: Path, **request: Any) -> None:
    export_output(cache_uri, name, ExportRequest(to=str(to), **request), console=Console(), as_json=False)


def expected(output: Output, *, as_stored: bool) -> dict[tuple[int, int], dict[str, NDArray[Any]]]:
    """Arrays by (sample, view), as the cache reads them."""
    found = {}
    for unit, commit in output.collection.commits().items():
        for view in range(unit.view_start, unit.view_stop):
            arrays = output.read_encoded(commit, view_index=view, sample_ids=IDS)
            if not as_stored:
                arrays = {"values": output.read(commit, view_index=view, sample_ids=IDS)}
            for row, sample_id in enumerate(IDS.tolist()):
                found[sample_id, view] = {name: array[row] for name, array in arrays.items()}
    return found


def read_parquet(to: Path, shapes: dict[str, tuple[int, ...]]) -> dict[tuple[int, int], dict[str, NDArray[Any]]]:
    """With pyarrow alone."""
    table = pq.read_table(to / "data")
    keys = zip(table["sample_id"].to_pylist(), table["view_index"].to_pylist(), strict=True)
    arrays = {}
    for name, shape in shapes.items():
        column = table[name].combine_chunks()
        flat = (column.flatten() if shape else column).to_numpy(zero_copy_only=False)
        arrays[name] = flat.reshape(-1, *shape)
    return {key: {name: array[row] for name, array in arrays.items()} for row, key in enumerate(keys)}


def read_tars(to: Path) -> dict[tuple[int, int], dict[str, NDArray[Any]]]:
    """With tarfile and NumPy alone; a key ends at the first dot, as WebDataset has it."""
    found: dict[tuple[int, int], dict[str, NDArray[Any]]] = {}
    for path in sorted((to / "data").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                key, kind = member.name.split(".", 1)
                sample_id, view = key.split("-")
                file = tar.extractfile(member)
                assert file is not None
                if kind != "json":
                    arrays = found.setdefault((int(sample_id, 16), int(view)), {})
                    arrays[kind.removesuffix(".npy")] = np.load(io.BytesIO(file.read()))
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("as_stored", [False, True])
@pytest.mark.parametrize("codec", CODINGS)
def test_values_are_those_of_the_cache_bit_for_bit(
    cache: WholeCache, tmp_path: Path, codec: str, as_stored: bool, format: Format
) -> None:
    output = with_output(cache, CODINGS[codec])
    to = tmp_path / "export"
    if codec == "top_k" and not as_stored:
        with pytest.raises(RecipeError, match="Give --as-stored"):
            export(cache.uri, "spatial", to, format=format)
        assert not to.exists()
        return
    export(cache.uri, "spatial", to, format=format, as_stored=as_stored)
    wanted = expected(output, as_stored=as_stored)
    shapes = {name: array.shape for name, array in next(iter(wanted.values())).items()}
    found = read_parquet(to, shapes) if format == "parquet" else read_tars(to)
    assert found.keys() == wanted.keys()
    for key, arrays in wanted.items():
        assert found[key].keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[key][name].dtype == array.dtype
            assert found[key][name].shape == array.shape
            assert found[key][name].tobytes() == array.tobytes()
    assert (to / "calibration.json").exists() == (as_stored and codec == "int8")


def test_every_row_has_the_params_and_the_digest_of_its_view(cache: WholeCache, tmp_path: Path) -> None:
    rows = {
        (row.sample_id, row.view_index): row
        for commit in cache.views.collection.commits().values()
        for row in cache.views.rows(commit)
    }
    export(cache.uri, "summary", tmp_path / "parquet", format="parquet")
    table = pq.read_table(tmp_path / "parquet" / "data").to_pylist()
    assert len(table) == len(rows) == 20
    for each in table:
        row = rows[each["sample_id"], each["view_index"]]
        assert (each["params"], each["digest"]) == (params_to_json(row.params), row.proof.digest)
    export(cache.uri, "summary", tmp_path / "tar", format="webdataset")
    with tarfile.open(sorted((tmp_path / "tar" / "data").iterdir())[0]) as tar:
        names = tar.getnames()
        assert names[:2] == ["0000000000000007-0000.json", "0000000000000007-0000.values.npy"]
        file = tar.extractfile(names[0])
        assert file is not None
        about = json.load(file)
    row = rows[7, 0]
    assert about == {
        "sample_id": "0000000000000007",
        "view_index": 0,
        "params": json.loads(params_to_json(row.params)),
        "digest": row.proof.digest.hex(),
    }


@pytest.mark.parametrize("format", FORMATS)
def test_the_program_of_the_card_reads_it(cache: WholeCache, tmp_path: Path, format: Format) -> None:
    output = with_output(cache, CODINGS["float16"])
    to = tmp_path / "export"
    said = Said(license="cc-by-4.0", author="A. Nonymous", cite="@misc{a}")
    export(cache.uri, "spatial", to, format=format, said=said)
    text = (to / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "cc-by-4.0"
    assert told["size_categories"] == ["n<1K"]
    assert told["configs"][0]["data_files"][0]["split"] == "train"
    assert [path.name for path in sorted(to.glob(told["configs"][0]["data_files"][0]["path"]))] == [
        path.name for path in sorted((to / "data").iterdir())
    ]
    for fact in ("20 views of 5 images", '"weights": "w0"', "`c0`", "A. Nonymous", "@misc{a}", output.spec.fingerprint):
        assert fact in body
    program = body.split("```python\n", 1)[1].split("```", 1)[0]
    check = (
        "print(values.shape, values.dtype, values.sum(), len(sample_ids))"
        if format == "parquet"
        else "print(len(about), sum(array.astype('f4').sum() for array in arrays.values()))"
    )
    done = run([sys.executable, "-c", f"{program}\n{check}"], cwd=to)
    assert done.returncode == 0, done.stderr
    values = np.stack([arrays["values"] for arrays in expected(output, as_stored=False).values()])
    total = np.float32(values.astype(np.float32).sum())
    if format == "parquet":
        assert done.stdout.split(")")[0] == str(values.shape).rstrip(")")
        assert done.stdout.split()[-1] == "20"
    else:
        assert done.stdout.split() == ["20", str(total)]


def test_what_nobody_said_is_not_invented(cache: WholeCache, tmp_path: Path) -> None:
    export(cache.uri, "summary", tmp_path / "export", format="parquet")
    text = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "license" not in yaml.safe_load(text.split("---\n", 2)[1])
    assert text.count("Not stated.") == 3


def test_the_same_export_gives_the_same_bytes_and_goes_on_where_it_ended(cache: WholeCache, tmp_path: Path) -> None:
    for format in FORMATS:
        one, two = tmp_path / f"{format}-1", tmp_path / f"{format}-2"
        export(cache.uri, "summary", one, format=format)
        export(cache.uri, "summary", two, format=format)
        whole = files_below(one)
        assert whole == files_below(two)
        with pytest.raises(RecipeError, match="something is published there"):
            export(cache.uri, "summary", one, format=format)
        (one / "README.md").unlink()  # as it is before the end
        first, second = sorted((one / "data").iterdir())
        second.unlink()
        before_s = first.stat().st_mtime_ns
        export(cache.uri, "summary", one, format=format)
        assert files_below(one) == whole
        assert first.stat().st_mtime_ns == before_s


def test_a_destination_with_something_else_in_it_is_left_alone(cache: WholeCache, tmp_path: Path) -> None:
    to = tmp_path / "export"
    to.mkdir()
    (to / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"is not empty \(thesis.txt\)"):
        export(cache.uri, "summary", to, format="parquet")
    (to / "thesis.txt").unlink()
    export(cache.uri, "summary", to, format="parquet")
    (to / "README.md").unlink()
    with pytest.raises(RecipeError, match="not the beginning of this export"):
        export(cache.uri, "summary", to, format="webdataset")


def test_a_damaged_value_is_never_published(cache: WholeCache, tmp_path: Path) -> None:
    (path,) = Path(cache.uri, cache.path_of("summary"), "units", UNITS[1].id).glob("*/values/c/0/0/0")
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheCorrupt, match=str(path)):
        export(cache.uri, "summary", tmp_path / "export", format="parquet")
    assert not (tmp_path / "export" / "README.md").exists()


def test_labels_are_those_of_the_corpus(tmp_path: Path, tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher) -> None:
    recipe, plan = filled(write_recipe(tmp_path, tiny_corpus, tiny_teacher))
    (train,) = plan.training[""].values()
    path = path_of_output(train, train.job.outputs["summary"])
    export(recipe.cache.uri, path, tmp_path / "export", format="parquet", corpus_uri=tiny_corpus.uri)
    table = pq.read_table(tmp_path / "export" / "data")
    members = tiny_corpus.members("train")
    label_of = dict(zip(members.sample_ids.tolist(), members.labels.tolist(), strict=True))
    assert table["label"].to_pylist() == [label_of[each] for each in table["sample_id"].to_pylist()]
    assert set(table["view_index"].to_pylist()) == {0, 1}
    assert "dots, lines, waves" in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    output = read_catalog(recipe.cache.uri).outputs[path]
    commit = next(iter(output.collection.commits().values()))
    exported = np.array(table["values"].to_pylist()[: commit.num_rows])
    np.testing.assert_array_equal(exported, output.read(commit, view_index=0, sample_ids=output.sample_ids(commit)))
    whole = write_cache(str(tmp_path / "other"))
    with pytest.raises(RecipeError, match="but the targets are of c0"):
        export(whole.uri, "summary", tmp_path / "no", format="parquet", corpus_uri=tiny_corpus.uri)


def test_samples_without_a_label_have_none() -> None:
    labels = Labels(sample_ids=np.array([3, 7, 12], np.uint64), labels=np.array([2, -1, 0], np.int32))
    assert labels.of(IDS).tolist() == [-1, -1, 0, 2, -1]


def test_the_command_exports_without_ray_and_torch(cache: WholeCache, tmp_path: Path) -> None:
    program = "import sys\nfrom kd_ray.cli import main\ntry:\n    main()\nfinally:\n"
    program += "    print('loaded:', sorted({'torch', 'ray'} & set(sys.modules)), file=sys.stderr)"
    command = [sys.executable, "-c", program, "cache", "export", cache.uri, "summary", "--to", str(tmp_path / "e")]
    done = run([*command, "--format", "webdataset", "--license", "mit", "--json"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("loaded: []\n")
    told = json.loads(done.stdout)
    assert (told["views"], told["samples"], told["license"]) == (20, 5, "mit")
    assert list(told["files"]) == ["data/train-00000-of-00002.tar", "data/train-00001-of-00002.tar"]
    done = run(command)
    assert done.returncode == 2
    assert "has a README.md already" in done.stderr
