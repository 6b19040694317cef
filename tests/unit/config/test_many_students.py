"""Several students in one recipe: who they are, what each has of its own, and every mistake of all of them at once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kd_ray.config.load import load_recipe
from kd_ray.config.losses import KdLoss
from kd_ray.config.models import CifarResNet
from kd_ray.config.recipe import Recipe
from kd_ray.config.resolved import recipe_hash, recipe_yaml
from kd_ray.config.students import each_student
from kd_ray.errors import RecipeError
from tests.support.recipes import VALID, line_of, write

STUDENTS = """\
students:
  plain: {}
  deep:
    model: {kind: cifar_resnet, depth: 20}
    train: {epochs: 9}
  other:
    model: {kind: timm, name: resnet18}
    train:
      losses: [{kind: kd, temperature: 4.0}]
"""


def _students(path: Path, *overrides: str) -> dict[str, Recipe]:
    return {each.recipe.student.name: each.recipe for each in each_student(load_recipe(path, overrides))}


def _mistakes(path: Path, *overrides: str) -> Sequence[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_a_recipe_of_one_student_is_that_student(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    (only,) = each_student(recipe)
    assert only.recipe is recipe
    assert not {"students", "sweep"} & set(recipe.model_dump())


def test_each_has_its_own_values_and_else_those_of_the_recipe(tmp_path: Path) -> None:
    students = _students(write(tmp_path, VALID + STUDENTS))
    assert list(students) == ["plain", "deep", "other"]
    assert students["plain"].student.model == CifarResNet(kind="cifar_resnet", depth=8)
    assert [each.train.epochs for each in students.values()] == [3, 9, 3]
    assert students["other"].student.model.title == "resnet18"
    (loss,) = students["other"].train.losses
    assert isinstance(loss, KdLoss)
    assert loss.temperature == 4.0
    assert not any(each.has_many_students for each in students.values())


def test_it_loads_back_equal_and_each_of_its_students_too(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, VALID + STUDENTS), ["sweep.grid.train.seed=[1,2]"])
    assert load_recipe(write(tmp_path, recipe_yaml(recipe), name="back.yaml")) == recipe
    for each in each_student(recipe):
        back = load_recipe(write(tmp_path, recipe_yaml(each.recipe), name="one.yaml"))
        assert (back, recipe_hash(back)) == (each.recipe, recipe_hash(each.recipe))


def test_a_grid_is_every_combination_and_names_say_which(tmp_path: Path) -> None:
    grid = "sweep: {grid: {train.optimizer.learning_rate: [0.001, 0.003], student.model.depth: [8, 20]}}\n"
    students = _students(write(tmp_path, VALID + grid))
    assert {
        name: (each.train.optimizer.learning_rate, each.student.model.model_dump()["depth"])
        for name, each in students.items()
    } == {
        "student-learning_rate-0.001-depth-8": (0.001, 8),
        "student-learning_rate-0.001-depth-20": (0.001, 20),
        "student-learning_rate-0.003-depth-8": (0.003, 8),
        "student-learning_rate-0.003-depth-20": (0.003, 20),
    }


def test_values_that_are_sections_are_called_by_their_place(tmp_path: Path) -> None:
    grid = "sweep: {grid: {student.model: [{kind: cifar_resnet, depth: 20}, {kind: timm, name: resnet18}]}}\n"
    students = _students(write(tmp_path, VALID + grid))
    assert {name: each.student.model.title for name, each in students.items()} == {
        "student-model-0": "ResNet-20 (CIFAR)",
        "student-model-1": "resnet18",
    }


def test_paths_that_end_alike_are_told_apart_in_names(tmp_path: Path) -> None:
    grid = "sweep: {grid: {train.losses.0.weight: [1], train.losses.1: [{kind: cross_entropy, weight: 2}]}}\n"
    assert list(_students(write(tmp_path, VALID + grid))) == ["student-weight-1-1-0"]
    two = ["sweep.grid={train.losses.0.weight: [1], train.schedule.kind: [cosine], train.optimizer.kind: [sgd]}"]
    assert list(_students(write(tmp_path), *two)) == ["student-weight-1-schedule_kind-cosine-optimizer_kind-sgd"]


def test_a_grid_is_over_every_one_of_the_named_students(tmp_path: Path) -> None:
    students = _students(write(tmp_path, VALID + STUDENTS), "sweep.grid.train.seed=[5,6]")
    assert list(students) == [f"{name}-seed-{seed}" for name in ("plain", "deep", "other") for seed in (5, 6)]
    assert students["deep-seed-6"].train.epochs == 9


def test_a_value_more_changes_no_other_student(tmp_path: Path) -> None:
    path = write(tmp_path)
    few, more = (
        _students(path, f"sweep.grid.train.optimizer.learning_rate={values}")
        for values in ("[0.001,0.002]", "[0.001,0.002,0.1]")
    )
    assert few == {name: more[name] for name in few}
    assert len(more) == 3


def test_every_mistake_of_every_student_is_told_at_once_and_where_it_was_written(tmp_path: Path) -> None:
    text = VALID.replace("epochs: 3", "epochs: -3") + STUDENTS.replace("depth: 20", "depth: 21").replace(
        "temperature: 4.0", "temprature: 4.0"
    ).replace("plain: {}", "plain: {train: {seed: x}}")
    path = write(tmp_path, text)
    mistakes = _mistakes(path)
    assert [each.split(": ")[1] for each in mistakes] == [
        "train.epochs",
        "students.plain.train.seed",
        "students.deep.model.depth",
        "students.other.train.losses.0.temprature",
    ]
    assert mistakes[2].startswith(line_of(path, "depth: 21"))
    assert "Did you mean temperature?" in mistakes[3]


def test_parts_that_do_not_fit_together_are_told_of_the_student(tmp_path: Path) -> None:
    (mistake,) = _mistakes(write(tmp_path, VALID + STUDENTS), "students.deep.train.global_batch_size=60")
    assert "students.deep.train.global_batch_size" in mistake
    assert "must be a multiple of lanes" in mistake
    (mistake,) = _mistakes(
        write(tmp_path, VALID), "sweep.grid.train.losses.0.kind=[kd,cross_entropy]", "labels={kind: none}"
    )
    assert "cross_entropy needs labels" in mistake


@pytest.mark.parametrize(
    ("override", "path", "told"),
    [
        ("sweep.grid.views.count=[1,2]", "sweep.grid.views.count", "over fields of student and train"),
        ("sweep.grid.student.name=[a,b]", "sweep.grid.student.name", "called by its values"),
        ("sweep.grid.train.num_workers=[1,2]", "sweep.grid.train.num_workers", "all students share it"),
        ("students.deep.train.num_workers=2", "students.deep.train.num_workers", "all students share it"),
        ("students.deep.name=x", "students.deep.name", "called by its key"),
        ("students.deep.train=3", "students.deep.train", "give the fields of train that differ"),
        ("students.teacher={}", "students.teacher", "a teacher has this name"),
        ("sweep.grid.train.seed=[]", "sweep.grid.train.seed", "at least 1 item"),
        ("sweep.grid.train.seed=3", "sweep.grid.train.seed", "valid tuple"),
        ("sweep.grid.train.seed=[1,2,3,4,5,6,7,8,9,10,11]", "sweep.grid", "33 students (11 of each of 3 students)"),
    ],
)
def test_what_no_student_may_have_is_refused(tmp_path: Path, override: str, path: str, told: str) -> None:
    (mistake,) = _mistakes(write(tmp_path, VALID + STUDENTS), override)
    assert mistake.startswith(f"command line: {path}: ")
    assert told in mistake


def test_an_index_past_the_end_of_a_list_is_told(tmp_path: Path) -> None:
    (mistake,) = _mistakes(write(tmp_path), "sweep.grid.train.losses.4.weight=[1]")
    assert "sweep.grid.train.losses.4" in mistake
    assert "the next one to add is 1" in mistake


def test_fresh_views_have_no_cached_targets(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path), ["train.targets=live", "train.views=fresh"]).train.views == "fresh"
    (mistake,) = _mistakes(write(tmp_path), "train.views=fresh")
    assert mistake.startswith("command line: train.views: ")
    assert "set targets: live" in mistake
