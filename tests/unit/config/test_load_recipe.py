"""From files and overrides to a recipe: layers, interpolation, and every mistake told in one pass."""

import re
from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.config.losses import CrossEntropyLoss, KdLoss
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_hash, recipe_yaml
from kd_ray.config.teacher import Teacher
from kd_ray.errors import RecipeError
from tests.support.recipes import VALID, line_of, write


def _refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def _mistakes(path: Path, *overrides: str) -> list[str]:
    """One line a mistake, after checking that the head counts them."""
    head, *lines = _refusal(path, *overrides).splitlines()
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    assert head == f"the recipe has {count}:"
    return [line.strip() for line in lines]


def _kd(recipe: Recipe, index: int = 0) -> KdLoss:
    loss = recipe.train.losses[index]
    assert isinstance(loss, KdLoss)
    return loss


# ---- values


def test_interpolation_takes_values_from_anywhere(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert (recipe.cache.uri, recipe.corpus.packed_uri) == ("out/small/cache", "out/small/corpus")


def test_interpolation_sees_overrides(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path), ["out=s3://b/x"]).cache.uri == "s3://b/x/cache"


def test_a_dotted_override_replaces_one_value_and_nothing_beside_it(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["teacher.input.size_px=[64,48]"])
    assert isinstance(recipe.teacher, Teacher)
    assert recipe.teacher.input.size_px == (64, 48)
    assert recipe.student.input.size_px == (32, 32)


def test_an_override_reaches_into_a_list_by_index(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["train.losses.0.temperature=4"])
    assert (_kd(recipe).temperature, len(recipe.train.losses)) == (4.0, 1)


def test_an_override_may_add_the_next_entry_of_a_list(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["train.losses.1.kind=cross_entropy", "train.losses.1.weight=0.5"])
    assert recipe.train.losses[1] == CrossEntropyLoss(kind="cross_entropy", weight=0.5)


def test_an_override_may_replace_a_whole_list(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["train.losses=[{kind: cross_entropy}]"])
    assert recipe.train.losses == (CrossEntropyLoss(kind="cross_entropy"),)


def test_later_overrides_win(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path), ["train.epochs=5", "train.epochs=7"]).train.epochs == 7


def test_an_override_may_contain_equals_signs(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path), ["out=runs/a=b"]).out == "runs/a=b"


def test_null_takes_an_optional_value_back(tmp_path: Path) -> None:
    path = write(tmp_path, VALID + "cluster: {address: auto}\n")
    assert load_recipe(path, ["cluster.address=null"]).cluster.address is None


def test_a_recipe_extends_others_the_later_over_the_earlier_and_itself_over_both(tmp_path: Path) -> None:
    write(tmp_path, VALID, name="base.yaml")
    write(tmp_path, "train: {epochs: 5, seed: 1}\nviews: {seed: 4}\n", name="more.yaml")
    recipe = load_recipe(write(tmp_path, "extends: [base.yaml, more.yaml]\ntrain: {epochs: 9}\n"))
    assert (recipe.train.epochs, recipe.train.seed, recipe.views.seed, recipe.views.count) == (9, 1, 4, 2)


def test_extends_is_relative_to_the_file_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, VALID, name="base.yaml")
    write(tmp_path / "deep", "extends: ../base.yaml\n", name="middle.yaml")
    assert load_recipe(write(tmp_path, "extends: deep/middle.yaml\nname: top\n")).name == "top"


def test_the_resolved_recipe_loads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["train.gradient_clip=1e-5", "name='on'"])
    again = load_recipe(write(tmp_path, recipe_yaml(recipe), name="resolved.yaml"))
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)


def test_the_hash_changes_with_any_value(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert recipe_hash(load_recipe(path)) != recipe_hash(load_recipe(path, ["train.seed=1"]))


# ---- mistakes


def test_all_mistakes_are_told_in_one_pass_each_with_its_place(tmp_path: Path) -> None:
    text = (
        VALID.replace("  count: 2", "  cuont: 2")
        .replace("kind: timm,", "kind: tim,")
        .replace("epochs: 3", "epochs: many")
        .replace("codec: float16", "codec: float17")
        .replace("depth: 8", "depth: 9")
        .replace('cache: {uri: "${out}/cache"}', 'cache: {uri: "${uot}/cache"}')
        .replace("uri: images", 'uri: "???"')
    )
    path = write(tmp_path, text)
    mistakes = _mistakes(path, "train.lanes=-1", "nonsense", "views.seed=x")
    expected = [
        ("command line: nonsense: got no value; write key=value", ""),
        (f"{line_of(path, '???')}: corpus.uri: is left open (???); give it as corpus.uri=…", ""),
        (f"{line_of(path, 'uot')}: cache.uri: got '${{uot}}/cache'; Interpolation key 'uot' not found", ""),
        ("command line: views.seed: got 'x'; input should be a valid integer", ""),
        (f"{line_of(path, 'cuont')}: views.cuont: unknown key; allowed here: policy, seed, count", "count"),
        (f"{line_of(path, 'kind: tim,')}: teacher.model.kind: got 'tim'; allowed: timm, cifar_resnet", "timm"),
        (
            f"{line_of(path, 'float17')}: teacher.outputs.logits.codec: got 'float17'; "
            "allowed: float32, float16, bfloat16, int8, uint8, top_k",
            "float16",
        ),
        (f"{line_of(path, 'depth: 9')}: student.model.depth: got 9; allowed: 8, 20, 32, 44, 56, 110", ""),
        (f"{line_of(path, 'epochs')}: train.epochs: got 'many'; input should be a valid number", ""),
        ("command line: train.lanes: got -1; input should be greater than 0", ""),
    ]
    assert len(mistakes) == len(expected)
    for mistake, (start, suggestion) in zip(mistakes, expected, strict=True):
        assert mistake.startswith(start)
        assert re.findall(r"Did you mean (\w+)\?", mistake) in ([suggestion], [])
        assert not suggestion or f"Did you mean {suggestion}?" in mistake


def test_a_missing_key_is_placed_at_its_section_and_says_how_to_give_it(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("  epochs: 3\n", ""))
    assert _mistakes(path) == [
        f"{line_of(path, 'train:')}: train.epochs: is missing; give it here or as train.epochs=…."
    ]


def test_a_section_stays_where_it_was_written_when_one_value_of_it_is_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("  epochs: 3\n", ""))
    assert _mistakes(path, "train.seed=1")[0].startswith(line_of(path, "train:"))


def test_a_missing_kind_says_what_it_is_for(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("kind: folder, ", ""))
    assert _mistakes(path) == [
        f"{line_of(path, 'corpus:')}: corpus.kind: is missing; it says which of the choices this section is."
    ]


def test_a_mistake_in_a_base_is_placed_in_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, VALID.replace("epochs: 3", "epochs: many"), name="base.yaml")
    top = write(tmp_path, "extends: base.yaml\ntrain: {seed: 1}\n")
    assert _mistakes(top)[0].startswith(f"{line_of(base, 'epochs')}: train.epochs")


def test_a_key_given_twice_is_a_mistake_since_yaml_would_drop_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, VALID + "name: other\n")
    assert _mistakes(path) == [
        f"{line_of(path, 'name: other')}: name: is given twice; line 1 has it already; keep one."
    ]


def test_an_index_past_the_end_of_a_list_is_a_mistake(tmp_path: Path) -> None:
    mistakes = _mistakes(write(tmp_path), "train.losses.5.weight=2")
    assert mistakes == [
        "command line: train.losses.5.weight: got index 5; the list has 1 entries, counted from 0; "
        "the next one to add is 1."
    ]


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", ".epochs=3", "train.=3", ""])
def test_an_override_that_is_none_is_a_mistake(tmp_path: Path, override: str) -> None:
    (mistake,) = _mistakes(write(tmp_path), override)
    assert mistake.startswith(f"command line: {override}: got no ")
    assert mistake.endswith("write key=value, e.g. train.epochs=10.")


def test_a_mistake_of_the_command_line_is_placed_there_with_a_suggestion(tmp_path: Path) -> None:
    (mistake,) = _mistakes(write(tmp_path), "train.epoch=3")
    assert mistake.startswith("command line: train.epoch: unknown key; allowed here: losses,")
    assert mistake.endswith("Did you mean epochs?")


# ---- keys left open


def test_an_open_key_may_be_given_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("uri: images", 'uri: "???"'))
    assert load_recipe(path, ["corpus.uri=elsewhere"]).corpus.uri == "elsewhere"


def test_an_open_key_may_be_given_by_a_recipe_that_extends(tmp_path: Path) -> None:
    write(tmp_path, VALID.replace("uri: images", 'uri: "???"'), name="base.yaml")
    path = write(tmp_path, "extends: base.yaml\ncorpus: {uri: elsewhere}\n")
    assert load_recipe(path).corpus.uri == "elsewhere"


@pytest.mark.parametrize(
    "key", ["name: small", "count: 2", "epochs: 3", "kind: folder", "codec: float16", "temperature: 2.0"]
)
def test_an_open_key_is_one_mistake_whatever_its_type(tmp_path: Path, key: str) -> None:
    name = key.partition(":")[0]
    path = write(tmp_path, VALID.replace(key, f'{name}: "???"'))
    (mistake,) = _mistakes(path)
    assert re.match(rf"{line_of(path, '???')}: [\w.]*{name}: is left open", mistake)


def test_a_value_made_from_an_open_key_is_not_a_mistake_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("out: out/small", 'out: "???"'))
    assert _mistakes(path) == [
        f"{path}:2: out: is left open (???); give it as out=… or in a recipe that extends this one."
    ]


# ---- interpolation


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${nowhere}/x", "Interpolation key 'nowhere' not found"),
        ("${out", "no viable alternative at input"),
        ("${name}${oc.env:KD_RAY_NOT_SET}", "Environment variable 'KD_RAY_NOT_SET' not found"),
        ("${no_such_resolver:1}", "Unsupported interpolation type no_such_resolver"),
        ("${cache.uri}", "Recursive interpolation"),
    ],
)
def test_an_interpolation_that_fails_is_placed_and_explained(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, VALID.replace("${out}/cache", text))
    (mistake,) = _mistakes(path)
    assert mistake.startswith(f"{line_of(path, 'cache:')}: cache.uri: got {text!r}; ")
    assert reason in mistake


def test_an_interpolation_that_fails_inside_a_list_is_placed(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("temperature: 2.0", 'temperature: "${nope}"'))
    (mistake,) = _mistakes(path)
    assert mistake.startswith(f"{line_of(path, 'nope')}: train.losses.0.temperature: got '${{nope}}'; ")


def test_a_value_that_no_recipe_has_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, VALID.replace("name: small", "name: 2026-01-01"))
    assert "date" in _refusal(path)


# ---- files


def test_a_missing_recipe_suggests_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, name="quickstart.yaml")
    assert _refusal(tmp_path / "quickstrat.yaml") == (
        f"{tmp_path}/quickstrat.yaml: no such recipe. Did you mean {tmp_path}/quickstart.yaml?"
    )


def test_a_missing_recipe_unlike_any_other_lists_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, name="b.yaml")
    write(tmp_path, name="a.yaml")
    assert _refusal(tmp_path / "something_else.yaml").endswith("no such recipe. There are: a.yaml, b.yaml.")


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/bsae.yaml: no such recipe" in _refusal(write(tmp_path, "extends: bsae.yaml\n" + VALID))


def test_invalid_yaml_says_where(tmp_path: Path) -> None:
    refusal = _refusal(write(tmp_path, "name: a\nout: [1, 2\ncorpus: x\n"))
    assert refusal.startswith(f"{tmp_path}/recipe.yaml:3: is not valid YAML: ")


@pytest.mark.parametrize(("text", "got"), [("", "NoneType"), ("- a\n", "list"), ("words\n", "str")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, got: str) -> None:
    assert _refusal(write(tmp_path, text)).endswith(f"a recipe is a mapping of sections, got {got}.")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert f"{path}: cannot be read" in _refusal(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be read" in _refusal(tmp_path)


def test_a_circle_of_recipes_names_the_chain(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", name="a.yaml")
    write(tmp_path, "extends: a.yaml\n", name="b.yaml")
    refusal = _refusal(tmp_path / "a.yaml")
    assert f"extends itself ({tmp_path}/a.yaml -> {tmp_path}/b.yaml -> {tmp_path}/a.yaml)" in refusal


@pytest.mark.parametrize("extends", ["3", "{a: b}", "[a.yaml, 3]"])
def test_extends_that_names_no_file_is_refused(tmp_path: Path, extends: str) -> None:
    assert "give the path of a recipe or a list of them" in _refusal(write(tmp_path, f"extends: {extends}\n{VALID}"))


# ---- presets of view policies


def test_a_policy_may_be_the_name_of_a_preset_and_the_resolved_recipe_shows_all_of_it(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), ["views.policy=lightly"])
    assert recipe.views.policy.name == "lightly"
    assert "random_grayscale" in recipe_yaml(recipe)


def test_an_unknown_preset_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (mistake,) = _mistakes(write(tmp_path), "views.policy=lightli")
    assert "views.policy.preset: " in mistake
    assert "no preset 'lightli'; did you mean lightly?" in mistake
