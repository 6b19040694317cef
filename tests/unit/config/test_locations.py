"""Relative locations of a recipe become absolute; URLs and everything else stay."""

from pathlib import Path

from kd_ray.config.load import load_recipe
from kd_ray.config.locations import with_absolute_locations

ROOT = Path(__file__).parents[3]


def test_every_local_location_is_absolute() -> None:
    recipe = load_recipe(
        ROOT / "conf" / "cifar10.yaml", ["corpus.uri=data", "teacher.weights=a/w.safetensors", "cache.uri=/big/cache"]
    )
    absolute = with_absolute_locations(recipe, base=Path("/home/me"))
    assert absolute.out == "/home/me/out/cifar10"
    assert absolute.corpus.uri == "/home/me/data"
    assert absolute.corpus.packed_uri == "/home/me/out/cifar10/corpus"
    assert absolute.cache.uri == "/big/cache"
    assert absolute.teacher is not None
    assert absolute.teacher.weights == "/home/me/a/w.safetensors"


def test_home_and_file_urls_are_paths() -> None:
    recipe = load_recipe(ROOT / "conf" / "folder.yaml", ["corpus.uri=~/my photos #2", "out=file:///data/run"])
    absolute = with_absolute_locations(recipe, base=Path("/home/me"))
    assert absolute.corpus.uri == str(Path.home() / "my photos #2")
    assert absolute.out == "/data/run"


def test_urls_and_all_other_values_stay() -> None:
    recipe = load_recipe(ROOT / "conf" / "prod.yaml")
    assert with_absolute_locations(recipe, base=Path("/home/me")) == recipe


def test_so_are_the_weights_of_each_of_several_students() -> None:
    recipe = load_recipe(
        ROOT / "conf" / "quickstart.yaml",
        ["students.a.weights=a.safetensors", "sweep.grid.student.weights=[b.safetensors,s3://bucket/c.safetensors]"],
    )
    absolute = with_absolute_locations(recipe, base=Path("/home/me"))
    assert absolute.students["a"]["weights"] == "/home/me/a.safetensors"
    assert absolute.sweep is not None
    assert absolute.sweep.grid["student.weights"] == ("/home/me/b.safetensors", "s3://bucket/c.safetensors")
