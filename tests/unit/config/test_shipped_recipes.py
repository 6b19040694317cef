"""Every recipe in conf/ loads, and to a recipe that loads back from its resolved form."""

from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.config.resolved import recipe_yaml
from kd_ray.errors import RecipeError
from tests.support.recipes import write

CONF = Path(__file__).parents[3] / "conf"
RECIPES = sorted(CONF.glob("*.yaml"))
# what a recipe leaves open (???) and its user gives
OPEN_VALUES = {
    "folder.yaml": ["corpus.uri=/data/images"],
    "webdataset.yaml": ["corpus.uri=/data/tars"],
    "listing.yaml": ["corpus.uri=/data/train.csv"],
    "camvid.yaml": ["corpus.uri=/data/camvid"],
    "mixture.yaml": ["corpus.sources.photos.uri=/data/photos", "corpus.sources.web.uri=/data/tars"],
    "cifar10.yaml": ["corpus.uri=/data/cifar10", "teacher.weights=/data/cifar10_resnet56.safetensors"],
}


def test_there_are_recipes() -> None:
    assert "quickstart.yaml" in {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_shipped_recipe_loads_and_loads_back_equal(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, OPEN_VALUES.get(path.name, []))
    assert load_recipe(write(tmp_path, recipe_yaml(recipe))) == recipe


@pytest.mark.parametrize("name", sorted(OPEN_VALUES))
def test_what_a_shipped_recipe_leaves_open_is_listed_and_nothing_else(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(CONF / name)
    mistakes = str(caught.value).splitlines()[1:]
    assert [mistake.split(": ")[1] for mistake in mistakes] == [each.partition("=")[0] for each in OPEN_VALUES[name]]
    assert all("is left open (???); give it as" in mistake for mistake in mistakes)
