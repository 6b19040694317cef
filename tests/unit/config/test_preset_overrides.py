"""A preset in a recipe is a base like any other: fields laid over it change those fields and nothing beside them."""

from pathlib import Path
from typing import Any

import pytest

from kd_ray.api import _values
from kd_ray.config.layers import merged
from kd_ray.config.load import load_recipe, recipe_from_values
from kd_ray.config.presets import PRESETS
from kd_ray.config.views import Mix, Policy, RandomResizedCrop
from kd_ray.errors import RecipeError
from tests.support.recipes import VALID, write

IN_FULL = VALID[VALID.index("  policy:") : VALID.index("teacher:")]
BY_NAME = VALID.replace(IN_FULL, "  policy: lightly\n")


def preset(name: str) -> Policy:
    return Policy.model_validate(name)


def policy(folder: Path, *overrides: str, text: str = BY_NAME) -> Policy:
    return load_recipe(write(folder, text), overrides).views.policy


@pytest.mark.parametrize("written", ["lightly", "{preset: lightly}"])
def test_one_field_of_a_preset_may_be_overridden(tmp_path: Path, written: str) -> None:
    found = policy(tmp_path, f"views.policy={written}", "views.policy.mix=null", text=VALID)
    assert found == preset("lightly").model_copy(update={"mix": None})


def test_a_value_inside_a_field_leaves_those_beside_it(tmp_path: Path) -> None:
    assert policy(tmp_path, "views.policy.mix.cutmix_alpha=0.5").mix == Mix(mixup_alpha=1.0, cutmix_alpha=0.5)


def test_one_operation_of_a_preset_may_be_overridden_by_its_index(tmp_path: Path) -> None:
    found, original = policy(tmp_path, "views.policy.operations.0.scale=[0.2,1]"), preset("lightly")
    assert found.operations[0] == RandomResizedCrop(kind="random_resized_crop", scale=(0.2, 1.0))
    assert found.operations[1:] == original.operations[1:]
    assert (found.name, found.mix) == (original.name, original.mix)


def test_an_operation_may_be_added_to_a_preset(tmp_path: Path) -> None:
    at = len(PRESETS["lightly"]["operations"])
    found = policy(tmp_path, f"views.policy.operations.{at}.kind=invert")
    assert [each.kind for each in found.operations] == [*(each.kind for each in preset("lightly").operations), "invert"]


def test_an_index_past_the_end_of_a_preset_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"views\.policy\.operations\.9\.scale: got index 9; the list has 5 entries"):
        policy(tmp_path, "views.policy.operations.9.scale=[0.2,1]")


def test_several_overrides_of_a_preset_add_up_in_any_order(tmp_path: Path) -> None:
    overrides = ["views.policy.renderer_version=2", "views.policy.operations.0.scale=[0.2,1]", "views.policy.mix=null"]
    assert policy(tmp_path, *overrides) == policy(tmp_path, *reversed(overrides))


def test_another_preset_keeps_what_was_overridden(tmp_path: Path) -> None:
    found = policy(tmp_path, "views.policy.digest_size_px=[16,16]", "views.policy.preset=weak")
    assert found == preset("weak").model_copy(update={"digest_size_px": (16, 16)})


def test_the_name_of_a_preset_replaces_all_that_was_there(tmp_path: Path) -> None:
    assert policy(tmp_path, "views.policy.mix=null", "views.policy=paper_vit") == preset("paper_vit")


def test_a_recipe_that_extends_changes_one_field_of_its_base_s_preset(tmp_path: Path) -> None:
    write(tmp_path, BY_NAME, name="base.yaml")
    found = policy(
        tmp_path, text="extends: base.yaml\nviews: {policy: {mix: null, operations: {0: {scale: [0.2, 1]}}}}\n"
    )
    assert found == policy(tmp_path, "views.policy.mix=null", "views.policy.operations.0.scale=[0.2,1]")


def test_a_policy_in_full_replaces_the_name_of_a_preset(tmp_path: Path) -> None:
    """Nothing of the preset stays, its mix neither."""
    write(tmp_path, BY_NAME, name="base.yaml")
    assert policy(tmp_path, text=f"extends: base.yaml\nviews:\n{IN_FULL}") == policy(tmp_path, text=VALID)


@pytest.mark.parametrize("written", ["lightly", "{preset: lightly}"])
def test_a_preset_replaces_a_policy_in_full(tmp_path: Path, written: str) -> None:
    """The operations of the base would else stand before those of the preset."""
    write(tmp_path, name="base.yaml")
    assert policy(tmp_path, text=f"extends: base.yaml\nviews: {{policy: {written}}}\n") == preset("lightly")
    assert policy(tmp_path, f"views.policy={written}", text=VALID) == preset("lightly")


def test_the_python_call_lays_its_overrides_as_a_recipe_does() -> None:
    values: dict[str, Any] = _values(
        "images", {"model": {"kind": "timm", "name": "x", "pretrained": True}, "outputs": {"summary": {}}}, "y",
        out="o", size_px=32, views=1, epochs=1,
    )  # fmt: skip
    recipe = recipe_from_values(
        merged(values, {"views": {"policy": {"preset": "weak", "operations": {0: {"scale": (0.5, 1.0)}}}}}),
        origins={},
        default_origin="here",
    )
    assert recipe.views.policy.name == "weak"
    assert recipe.views.policy.operations[0] == RandomResizedCrop(kind="random_resized_crop", scale=(0.5, 1.0))


def test_a_mistake_inside_a_preset_is_placed_where_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        policy(tmp_path, "views.policy.operations.0.scale=[0.2,2]", "views.policy.mixx=null")
    head, *lines = str(caught.value).splitlines()
    assert head == "the recipe has 2 mistakes:"
    assert lines[0].strip().startswith("command line: views.policy.operations.0.scale: ")
    assert lines[1].strip().startswith("command line: views.policy.mixx: unknown key")


@pytest.mark.parametrize("index", [7, -1])
@pytest.mark.parametrize("preset_first", [False, True], ids=["over a list", "over a preset"])
def test_an_index_that_a_list_does_not_have_is_refused(tmp_path: Path, index: int, preset_first: bool) -> None:
    """Appended, it would be another policy than the one that was meant, and so would one counted from the end."""
    override = f"views.policy.operations={{{index}: {{kind: invert}}}}"
    with pytest.raises(RecipeError) as caught:
        policy(tmp_path, override, text=BY_NAME if preset_first else VALID)
    head, line = str(caught.value).splitlines()
    assert head == "the recipe has 1 mistake:"
    assert f"command line: views.policy.operations.{index}: " in line
    assert "the next one to add is" in line


def test_a_recipe_s_wrong_index_is_placed_where_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, name="base.yaml")
    with pytest.raises(RecipeError, match=r":2: views\.policy\.operations\.7: got index 7; the list has \d entries"):
        policy(tmp_path, text="extends: base.yaml\nviews: {policy: {operations: {7: {kind: invert}}}}\n")


def test_the_next_index_adds_an_operation(tmp_path: Path) -> None:
    num = len(preset("lightly").operations)
    found = policy(tmp_path, f"views.policy.operations={{{num}: {{kind: invert}}}}")
    assert [each.kind for each in found.operations][-1] == "invert"
    assert found.operations[:-1] == preset("lightly").operations


def test_overriding_an_unknown_preset_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no preset 'lightli'; did you mean lightly"):
        policy(tmp_path, "views.policy=lightli", "views.policy.mix=null")


def test_presets_are_left_as_they_are(tmp_path: Path) -> None:
    before = preset("lightly")
    policy(tmp_path, "views.policy.operations.0.scale=[0.2,1]")
    assert preset("lightly") == before
