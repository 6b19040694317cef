"""Sizes that a model would not see whole are refused before any work, all at once, with the sizes that it does."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.models import CifarResNet, Model, TimmModel
from kd_ray.config.recipe import Recipe
from kd_ray.errors import CorpusError, ModelError, RecipeError
from kd_ray.models.shapes import uncovered_patch_px
from kd_ray.run import EXIT_BAD_INPUT, run_recipe
from pipelines.inputs import given_sizes
from tests.support.processes import kd_ray, run
from tests.support.recipes import VALID, write

VIT = "vit_tiny_patch16_224"
TEACHER = "model: {kind: timm, name: resnet18, pretrained: true}\n  input: {size_px: [32, 32]}"


def vit(side: int) -> str:
    return f"model: {{kind: timm, name: {VIT}, pretrained: true, args: {{img_size: [{side}, {side}]}}}}"


def recipe_text(folder: Path, *, side: int) -> str:
    text = VALID.replace("out: out/small", f"out: {folder}/out").replace("uri: images", f"uri: {folder}/images")
    assert TEACHER in text
    return text.replace(TEACHER, f"{vit(side)}\n  input: {{size_px: [{side}, {side}]}}")


def refusal(recipe: Recipe, *, dry_run: bool) -> str:
    with pytest.raises(RecipeError) as caught:
        run_recipe(recipe, console=Console(quiet=True), dry_run=dry_run)
    return str(caught.value)


@pytest.mark.parametrize("dry_run", [False, True])
def test_it_is_refused_before_anything_is_read_or_written(tmp_path: Path, dry_run: bool) -> None:
    recipe = load_recipe(write(tmp_path, recipe_text(tmp_path, side=100)))
    assert refusal(recipe, dry_run=dry_run) == (
        "the recipe has 1 mistake:\n"
        f"  recipe small: teacher.input.size_px: got [100, 100]; {VIT} cuts its input into patches of 16x16 px and "
        "would not see what is left over; the nearest sizes that it sees whole are [96, 96] or [112, 112] (where "
        "model.args has img_size, there too)."
    )
    assert not (tmp_path / "out").exists()


def test_all_teachers_and_the_student_are_told_at_once(tmp_path: Path) -> None:
    teachers = "".join(
        f"  {name}:\n    {vit(side)}\n    input: {{size_px: [{side}, {side}]}}\n    outputs: {{logits: {{}}}}\n"
        for name, side in (("small", 40), ("right", 48), ("large", 230))
    )
    text = recipe_text(tmp_path, side=32)
    text = text[: text.index("teacher:\n")] + "teachers:\n" + teachers + text[text.index("cache:") :]
    overrides = (
        "train.losses.0.teacher=right",
        f"student.model={{kind: timm, name: {VIT}, args: {{img_size: [8, 32]}}}}",
        "student.input.size_px=[8, 32]",
    )
    text = text.replace("model: {kind: cifar_resnet, depth: 8}", "model: {}")
    head, *lines = refusal(load_recipe(write(tmp_path, text), overrides), dry_run=True).splitlines()
    assert head == "the recipe has 3 mistakes:"
    paths = ["teachers.small.input.size_px", "teachers.large.input.size_px", "student.input.size_px"]
    assert [line.split(": ")[1] for line in lines] == paths
    assert "[32, 32] or [48, 48]" in lines[0]
    assert "[224, 224] or [240, 240]" in lines[1]
    assert "are [16, 32] (" in lines[2]


def test_a_size_that_a_model_does_not_take_at_all_is_refused_before_packing_too(tmp_path: Path) -> None:
    text = recipe_text(tmp_path, side=100).replace(", args: {img_size: [100, 100]}", "")
    told = rf"^recipe \w+: teacher\.input\.size_px: {VIT} cannot give summary for 100x100 px: .*\(100\) doesn't match"
    with pytest.raises(ModelError, match=told) as caught:
        run_recipe(load_recipe(write(tmp_path, text)), console=Console(quiet=True))
    assert ".." not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_packing_alone_needs_no_model(tmp_path: Path) -> None:
    """It fails for the images that are not there, and no sooner."""
    recipe = load_recipe(write(tmp_path, recipe_text(tmp_path, side=100)))
    with pytest.raises(CorpusError, match="images"):
        run_recipe(recipe, console=Console(quiet=True), stages=["pack"])


def test_what_was_found_in_order_is_recorded_and_not_looked_at_again(tmp_path: Path) -> None:
    """A second run does not import timm for it: 4 s."""
    path = write(tmp_path, recipe_text(tmp_path, side=32))
    with pytest.raises(CorpusError, match="images"):
        run_recipe(load_recipe(path), console=Console(quiet=True))
    code = f"""
import sys
from pathlib import Path
from rich.console import Console
from kd_ray.config.load import load_recipe
from kd_ray.errors import CorpusError
from kd_ray.run import run_recipe
try:
    run_recipe(load_recipe(Path({str(path)!r})), console=Console(quiet=True))
except CorpusError:
    print("timm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_on_the_command_line_it_is_one_paragraph_and_status_2(tmp_path: Path) -> None:
    completed = run(kd_ray(str(write(tmp_path, recipe_text(tmp_path, side=100))), "--dry-run"))
    assert completed.returncode == EXIT_BAD_INPUT
    assert "teacher.input.size_px: got [100, 100]" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_every_size_of_every_model_is_asked_about(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert {each.path: each.size_px for each in given_sizes(recipe)} == {
        "teacher.input.size_px": (32, 32),
        "student.input.size_px": (32, 32),
    }
    recipe = load_recipe(
        write(tmp_path),
        [
            "views.policy=dino_multicrop",
            "views.policy.kinds.global.size_px=null",
            "student.input.kind_sizes_px.local=[48,48]",
        ],
    )
    assert [(each.path, each.size_px) for each in given_sizes(recipe)] == [
        ("teacher.input.size_px", (32, 32)),
        ("views.policy.kinds.global_solarized.size_px", (224, 224)),
        ("views.policy.kinds.local.size_px", (96, 96)),
        ("student.input.size_px", (32, 32)),
        ("views.policy.kinds.global_solarized.size_px", (224, 224)),
        ("student.input.kind_sizes_px.local", (48, 48)),
    ]


def timm_model(name: str, **args: object) -> Model:
    return TimmModel(kind="timm", name=name, args=args)


@pytest.mark.parametrize(
    ("model", "size_px", "expected"),
    [
        (timm_model(VIT, img_size=(100, 100)), (100, 100), (16, 16)),
        (timm_model(VIT, img_size=(96, 100)), (96, 100), (16, 16)),
        (timm_model(VIT, img_size=(96, 112)), (96, 112), None),
        (timm_model(VIT, dynamic_img_size=True), (100, 96), (16, 16)),
        (timm_model(VIT, dynamic_img_size=True, dynamic_img_pad=True), (100, 96), None),
        (timm_model(VIT), (100, 100), None),  # takes 224x224 alone, and says so itself
        (timm_model("vit_small_r26_s32_224", img_size=(224, 224)), (224, 224), None),
        (timm_model("vit_small_r26_s32_224", dynamic_img_size=True), (224, 240), (32, 32)),
        (timm_model("eva02_tiny_patch14_224", img_size=(100, 98)), (100, 98), (14, 14)),
        (timm_model("mixer_s16_224", img_size=(40, 40)), (40, 40), (16, 16)),
        (timm_model("swin_tiny_patch4_window7_224", img_size=(226, 224)), (226, 224), (4, 4)),
        (timm_model("resnet18"), (101, 99), None),
        (CifarResNet(kind="cifar_resnet", depth=8), (33, 31), None),
    ],
    ids=lambda value: value.title if hasattr(value, "title") else str(value),
)
def test_patches_that_leave_something_over(
    model: Model, size_px: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    assert uncovered_patch_px(model, size_px=size_px) == expected
