"""The recipes in conf/ that show the kinds of sources, each on photographs of CamVid in the form that it is for."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.packing.pack import pack
from tests.support.shared_data import shared_data

CONF = Path(__file__).parents[2] / "conf"
NUM_PHOTOGRAPHS = 24


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    return sorted(shared_data("camvid/train/images").glob("*.jpg"))[:NUM_PHOTOGRAPHS]


@pytest.fixture(scope="module")
def forms(photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs, in two classes by turns, as class folders, in a tar and in a listing."""
    root = tmp_path_factory.mktemp("forms")
    rows = ["image,label"]
    (root / "tars").mkdir()
    with tarfile.open(root / "tars" / "00000.tar", "w") as tar:
        for number, path in enumerate(photographs):
            name = f"class{number % 2}"
            (root / "folder" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / "folder" / name)
            rows.append(f"{name}/{path.name},{name}")
            tar.add(path, f"{number:06d}.jpg")
            label = tarfile.TarInfo(f"{number:06d}.cls")
            label.size = len(name)
            tar.addfile(label, io.BytesIO(name.encode()))
    (root / "folder" / "listing.csv").write_text("\n".join(rows))
    return root


def packed_by(name: str, out: Path, *overrides: str) -> PackedCorpus:
    recipe = load_recipe(CONF / f"{name}.yaml", [f"out={out}", *overrides])
    pack(recipe.corpus)
    return open_corpus(recipe.corpus.packed_uri)


def num_samples(corpus: PackedCorpus) -> int:
    return sum(corpus.num_samples(split) for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("folder", "corpus.uri={}/folder"),
        ("listing", "corpus.uri={}/folder/listing.csv"),
        ("webdataset", "corpus.uri={}/tars"),
    ],
)
def test_every_form_is_packed_whole_with_its_classes(forms: Path, tmp_path: Path, name: str, override: str) -> None:
    corpus = packed_by(name, tmp_path, override.format(forms))
    assert num_samples(corpus) == NUM_PHOTOGRAPHS
    assert corpus.classes == ("class0", "class1")


def test_a_mixture_packs_what_is_in_both_once(forms: Path, tmp_path: Path) -> None:
    sources = (f"corpus.sources.photos.uri={forms}/folder", f"corpus.sources.web.uri={forms}/tars")
    corpus = packed_by("mixture", tmp_path, *sources)
    assert num_samples(corpus) == NUM_PHOTOGRAPHS
    assert {shard.source for shard in corpus.shards("train")} == {"photos"}


def test_segmentation_pairs_come_in_their_own_splits(tmp_path: Path) -> None:
    camvid = shared_data("camvid")
    corpus = packed_by("camvid", tmp_path, f"corpus.uri={camvid}")
    for split in ("train", "test"):
        assert corpus.num_samples(split) == len(list((camvid / split / "images").glob("*.jpg")))
    shard = corpus.shards("test")[0]
    assert all(mask is not None for mask in corpus.read_rows(shard.name, 0, 1, columns=("mask",)).masks)
