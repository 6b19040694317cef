"""Kinds of views and repeats in a recipe: what they resolve to, and every refusal at its place."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kd_ray.config.load import load_recipe
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_yaml
from kd_ray.config.views import NAMELESS, Policy, Views
from kd_ray.errors import RecipeError
from kd_ray.views import draw, view_set_identity
from tests.support.recipes import VALID, write

CROP, FLIP = {"kind": "random_resized_crop"}, {"kind": "horizontal_flip"}
PLAIN = {"name": "plain", "operations": [CROP, FLIP]}
TWO = {
    "name": "two",
    "kinds": {
        "wide": {"operations": [CROP, FLIP], "size_px": [32, 32]},
        "narrow": {"operations": [{**CROP, "scale": [0.05, 0.4]}, FLIP], "num_crops": 3},
    },
}
KINDS = """\
    name: two
    kinds:
      wide: {operations: [{kind: random_resized_crop}], size_px: [48, 48]}
      narrow: {operations: [{kind: random_resized_crop, scale: [0.1, 0.4]}], num_crops: 3}
"""
WITH_KINDS = VALID.replace(VALID[VALID.index("    name: plain") : VALID.index("teacher:")], KINDS)


def policy(**changes: Any) -> Policy:
    return Policy.model_validate({**TWO, **changes})


def recipe(folder: Path, *overrides: str, text: str = WITH_KINDS) -> Recipe:
    return load_recipe(write(folder, text), overrides)


def mistake(folder: Path, *overrides: str, text: str = WITH_KINDS) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(folder, *overrides, text=text)
    (_, told) = str(caught.value).splitlines()
    return told


class TestKinds:
    def test_a_policy_of_operations_has_one_nameless_kind_that_is_itself(self) -> None:
        plain = Policy.model_validate(PLAIN)
        assert plain.kind_names == (NAMELESS,)
        assert plain.of_kind(NAMELESS) == plain
        assert (plain.num_crops(NAMELESS), plain.size_px(NAMELESS)) == (1, None)

    def test_a_kind_is_a_policy_of_its_own(self) -> None:
        two = policy(digest_size_px=(16, 16), renderer_version=2, repeats=2)
        assert two.kind_names == ("wide", "narrow")
        assert two.of_kind("wide") == Policy.model_validate(
            {**PLAIN, "name": "two_wide", "digest_size_px": (16, 16), "renderer_version": 2}
        )
        assert [two.num_crops(kind) for kind in two.kind_names] == [1, 3]
        assert [two.size_px(kind) for kind in two.kind_names] == [(32, 32), None]

    def test_it_draws_what_the_plain_policy_draws_and_is_the_same_view_set(self) -> None:
        plain, wide = Policy.model_validate(PLAIN), policy().of_kind("wide")
        for index in range(5):
            drawn = [
                draw(each, seed=1, sample_id=7, view_index=index, image_size_px=(30, 40)) for each in (plain, wide)
            ]
            assert drawn[0] == drawn[1]
        assert view_set_identity(plain, seed=1, corpus_id="c", split="train") == view_set_identity(
            wide, seed=1, corpus_id="c", split="train"
        )

    def test_count_is_of_draws(self) -> None:
        views = Views.model_validate({"policy": TWO, "count": 4})
        assert [views.num_views(kind) for kind in views.policy.kind_names] == [4, 12]

    @pytest.mark.parametrize(
        ("written", "told"),
        [
            ({"name": "none"}, "neither is given"),
            ({"name": "empty", "operations": [], "kinds": {}}, "neither is given"),
            ({**PLAIN, **TWO}, "both are given"),
            ({**TWO, "mix": {"mixup_alpha": 1.0}}, "each kind would draw another partner"),
            ({"name": "a", "kinds": {"one": {"operations": [FLIP]}}}, "must start with its only crop"),
            ({"name": "a", "kinds": {"one": {"operations": []}}}, "must start with its only crop"),
            ({"name": "a", "kinds": {"Bad name": {"operations": [CROP]}}}, "should match pattern"),
            ({"name": "a", "kinds": {"one": {"operations": [CROP], "num_crops": 0}}}, "greater than 0"),
            ({"name": "a", "kinds": {"one": {"operations": [CROP], "size_px": [0, 8]}}}, "greater than 0"),
            (
                {"name": "a", "kinds": {"one": {"operations": [CROP]}, "two": {"operations": [CROP], "num_crops": 2}}},
                "kinds.two: draws the very views of 'one'",
            ),
            ({**PLAIN, "repeats": 0}, "greater than 0"),
        ],
    )
    def test_what_does_not_make_a_policy_is_refused(self, written: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            Policy.model_validate(written)


class TestPresetWithKinds:
    def test_one_field_of_one_kind_is_changed(self) -> None:
        preset = Policy.model_validate("dino_multicrop")
        changed = Policy.model_validate({"preset": "dino_multicrop", "kinds": {"local": {"num_crops": 2}}})
        assert changed.kinds["local"] == preset.kinds["local"].model_copy(update={"num_crops": 2})
        assert changed.kind_names == preset.kind_names
        assert changed.kinds["global"] == preset.kinds["global"]

    def test_null_takes_a_kind_out_and_a_new_name_adds_one(self) -> None:
        written = {"preset": "dino_multicrop", "kinds": {"global_solarized": None, "whole": {"operations": [CROP]}}}
        assert Policy.model_validate(written).kind_names == ("global", "local", "whole")

    @pytest.mark.parametrize("change", [{"lokal": {"num_crops": 2}}, {"lokal": None}, {"local": 3}])
    def test_what_is_no_change_of_a_kind_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Policy.model_validate({"preset": "dino_multicrop", "kinds": change})

    def test_from_the_command_line(self, tmp_path: Path) -> None:
        text = WITH_KINDS.replace(KINDS, "    preset: dino_multicrop\n")
        found = recipe(tmp_path, "views.policy.kinds.local.size_px=[64,64]", text=text).views.policy
        assert found.size_px("local") == (64, 64)
        assert found.num_crops("local") == 8


class TestSizes:
    def test_a_model_s_own_size_for_a_kind_comes_first_then_the_kind_s_then_the_model_s(self, tmp_path: Path) -> None:
        loaded = recipe(tmp_path, "student.input.kind_sizes_px.wide=[40,40]")
        policy, teacher = loaded.views.policy, loaded.all_teachers()["teacher"]
        assert loaded.student.input.of_kind(policy, "wide").size_px == (40, 40)
        assert teacher.input.of_kind(policy, "wide").size_px == (48, 48)
        assert teacher.input.of_kind(policy, "narrow").size_px == (32, 32)

    @pytest.mark.parametrize("model", ["teacher", "student"])
    def test_a_size_for_a_kind_that_there_is_not_is_refused(self, tmp_path: Path, model: str) -> None:
        told = mistake(tmp_path, f"{model}.input.kind_sizes_px.wild=[40,40]")
        assert f"command line: {model}.input.kind_sizes_px.wild: does not fit together; " in told
        assert "'wild' is no kind of policy 'two'; it has wide, narrow" in told

    def test_without_kinds_there_are_no_sizes_for_them(self, tmp_path: Path) -> None:
        told = mistake(tmp_path, "student.input.kind_sizes_px.wide=[40,40]", text=VALID)
        assert "it has no kinds; change size_px, or give the policy kinds" in told


class TestRepeats:
    def test_more_than_there_are_draws_are_refused(self, tmp_path: Path) -> None:
        told = mistake(tmp_path, "views.policy.repeats=3", "train.global_batch_size=24")
        assert "views.policy.repeats: does not fit together; 3 draws of a sample in one batch" in told
        assert "views.count is 2" in told

    def test_a_batch_holds_whole_turns_in_every_lane(self, tmp_path: Path) -> None:
        told = mistake(tmp_path, "views.policy.repeats=3", "views.count=3")
        assert "train.global_batch_size: does not fit together; " in told
        assert "global_batch_size (64) must be a multiple of views.policy.repeats (3) times lanes (8)" in told
        assert "The next is 72" in told
        assert recipe(tmp_path, "views.policy.repeats=3", "views.count=3", "train.global_batch_size=72")

    def test_so_does_one_of_finetuning(self, tmp_path: Path) -> None:
        settings = ("views.policy.repeats=2", "teacher.finetune={steps: 1, global_batch_size: 63}")
        assert "teacher.finetune.global_batch_size: does not fit together; " in mistake(tmp_path, *settings)

    def test_they_are_no_matter_of_the_view_set(self) -> None:
        once, often = policy(), policy(repeats=4)
        for kind in once.kind_names:
            assert once.of_kind(kind) == often.of_kind(kind)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluate.policy=dino_multicrop", "an image is evaluated by one view"),
        ("evaluate.policy={preset: weak, repeats: 2}", "an image is evaluated once; remove repeats"),
    ],
)
def test_images_are_evaluated_by_one_view(tmp_path: Path, override: str, told: str) -> None:
    assert told in mistake(tmp_path, override)


def test_a_resolved_recipe_with_kinds_loads_back(tmp_path: Path) -> None:
    wanted = recipe(
        tmp_path,
        "views.policy.repeats=2",
        "student.input.kind_sizes_px.wide=[40,40]",
        f"out={tmp_path}/out",
    )
    again = write(tmp_path, recipe_yaml(wanted), name="resolved.yaml")
    assert load_recipe(again) == wanted
