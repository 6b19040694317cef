"""Several students over one cache, without Ray: what each is trained on, what they share, and who is trained again."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.config.recipe import Recipe
from kd_ray.config.views import NAMELESS
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.engine.session import RaySession
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.storage import open_storage
from kd_ray.telemetry.events import EventLog
from kd_ray.training.batches import BatchStream, NoTargets
from kd_ray.training.job import TrainJob, is_finished, open_source, train_alone
from kd_ray.training.sources import CachedSource, LiveSource
from pipelines.context import Run
from pipelines.stages.finetune import teachers_at_hand
from pipelines.stages.many import PlannedStudent, check_students, planned_students, student_lines
from pipelines.stages.plan import make_plan, plan_table
from pipelines.stages.train import worker_groups
from tests.support.tiny_recipe import filled, write_recipe

SMALL = {"train": {"epochs": 0.2, "global_batch_size": 16}}
NAMED = {"plain": {}, "warm": {"train": {"losses": [{"kind": "kd", "temperature": 4.0}]}}}


def run_of(recipe: Recipe) -> Run:
    return Run(
        recipe=recipe,
        storage=open_storage(recipe.out),
        console=Console(file=StringIO()),
        session=RaySession(recipe.cluster),
        events=EventLog(None),
        stages=("train",),
    )


def planned(recipe: Recipe, corpus: PackedCorpus) -> list[PlannedStudent]:
    run = run_of(recipe)
    teachers = teachers_at_hand(run, corpus)
    return planned_students(run, corpus, teachers, make_plan(recipe, corpus, teachers))


@pytest.fixture(scope="module")
def recipe_path(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A recipe whose cache holds all that its teacher is asked for."""
    path = write_recipe(tmp_path_factory.mktemp("many"), tiny_corpus, tiny_teacher, changes=SMALL)
    filled(path)
    return path


def with_students(path: Path, students: Mapping[str, Any], *overrides: str) -> Recipe:
    recipe = load_recipe(path, overrides)
    return Recipe.model_validate({**recipe.model_dump(mode="json"), "students": students})


def names(students: Sequence[PlannedStudent]) -> list[str]:
    return [each.job.name for each in students]


class TestOneCache:
    def test_every_student_reads_the_same_targets_and_no_teacher_is_needed(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        recipe = load_recipe(
            recipe_path,
            ["sweep.grid.train.optimizer.learning_rate=[0.001,0.003]", "sweep.grid.train.losses.0.temperature=[1,2]"],
        )
        students = planned(recipe, tiny_corpus)
        assert len(students) == 4
        assert len({each.job.run_uri for each in students}) == 4
        (first, *others) = [each.job.source for each in students]
        assert isinstance(first, Mapping)
        assert all(other == first for other in others)
        plan = make_plan(recipe, tiny_corpus, teachers_at_hand(run_of(recipe), tiny_corpus))
        assert sum(each.forwards_missing for each in plan.all) == 0
        assert "4 students" in str(plan_table(plan, recipe).caption)

    def test_a_student_of_many_is_the_run_that_it_is_alone(self, recipe_path: Path, tiny_corpus: PackedCorpus) -> None:
        many = planned(with_students(recipe_path, NAMED), tiny_corpus)
        (alone,) = planned(load_recipe(recipe_path, ["student.name=warm", "train.losses.0.temperature=4"]), tiny_corpus)
        assert alone.job == many[1].job

    def test_one_more_leaves_the_others_finished(self, recipe_path: Path, tiny_corpus: PackedCorpus) -> None:
        before = planned(with_students(recipe_path, NAMED), tiny_corpus)
        for each in before:
            train_alone(each.job, device="cpu")
        after = planned(with_students(recipe_path, {**NAMED, "new": {"train": {"seed": 9}}}), tiny_corpus)
        assert {each.job.name: is_finished(each.job) for each in after} == {"plain": True, "warm": True, "new": False}

    def test_they_are_counted_before_any_work(self, recipe_path: Path) -> None:
        recipe = with_students(recipe_path, NAMED, "sweep.grid.train.seed=[1,2,3]")
        head, *lines = student_lines(recipe)
        assert head.startswith("students: 6 (2 by name times 3 in the grid)")
        assert len(lines) == 6
        assert "warm-seed-3 (ResNet-8 (CIFAR)): train.seed 3" in lines[-1]


class TestWorkerGroups:
    """Which students train at the same time, and which one after another in the same workers."""

    def groups(self, recipe: Recipe, corpus: PackedCorpus, *, room: int) -> dict[str, list[str]]:
        jobs = [each.job for each in planned(recipe, corpus)]
        found = worker_groups(recipe, jobs, key="0123456789abcdef", room=room)
        return {name: [job.name for job in group.jobs] for name, group in found}

    def recipe(self, path: Path, *overrides: str) -> Recipe:
        return with_students(path, {name: {"train": {"seed": 20 + ord(name)}} for name in "abcde"}, *overrides)

    @pytest.mark.parametrize(
        ("room", "overrides", "dealt"),
        [
            (1, (), [["a", "b", "c", "d", "e"]]),
            (2, (), [["a", "c", "e"], ["b", "d"]]),
            (9, (), [["a"], ["b"], ["c"], ["d"], ["e"]]),
            (9, ("train.max_parallel_students=2",), [["a", "c", "e"], ["b", "d"]]),
            (2, ("train.max_parallel_students=4",), [["a", "c", "e"], ["b", "d"]]),
        ],
    )
    def test_there_are_as_many_as_there_is_room_for(
        self, recipe_path: Path, tiny_corpus: PackedCorpus, room: int, overrides: Sequence[str], dealt: list[list[str]]
    ) -> None:
        found = self.groups(self.recipe(recipe_path, *overrides), tiny_corpus, room=room)
        assert list(found.values()) == dealt

    def test_one_with_nothing_left_is_not_started_and_the_others_keep_their_names(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        recipe = self.recipe(recipe_path, "train.epochs=0.1")
        before = self.groups(recipe, tiny_corpus, room=2)
        for each in planned(recipe, tiny_corpus):
            if each.job.name in ("b", "d", "a"):
                train_alone(each.job, device="cpu")
        after = self.groups(recipe, tiny_corpus, room=2)
        assert after == {name: jobs for name, jobs in before.items() if "a" in jobs}


class TestReferences:
    def test_students_that_differ_in_what_they_learn_from_share_one(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        students = planned(with_students(recipe_path, NAMED, "train.reference=true"), tiny_corpus)
        assert names(students) == ["plain", "warm", "plain-without-teacher"]
        assert [each.reference for each in students] == ["plain-without-teacher", "plain-without-teacher", None]
        assert [each.with_teacher for each in students] == [True, True, False]

    def test_others_have_their_own(self, recipe_path: Path, tiny_corpus: PackedCorpus) -> None:
        named = {**NAMED, "deep": {"model": {"kind": "cifar_resnet", "depth": 20}}}
        students = planned(with_students(recipe_path, named, "train.reference=true"), tiny_corpus)
        assert names(students)[3:] == ["plain-without-teacher", "deep-without-teacher"]
        assert len({each.job.run_uri for each in students}) == 5

    def test_and_it_is_the_same_run_in_whatever_company(self, recipe_path: Path, tiny_corpus: PackedCorpus) -> None:
        (_, alone) = planned(load_recipe(recipe_path, ["train.reference=true"]), tiny_corpus)
        shared = planned(with_students(recipe_path, NAMED, "train.reference=true"), tiny_corpus)[-1]
        assert (alone.job.run_uri, alone.job.name) == (shared.job.run_uri, "student-without-teacher")


def test_what_is_wrong_with_any_student_is_told_before_a_teacher_runs(
    recipe_path: Path, tiny_corpus: PackedCorpus
) -> None:
    named = {
        "fine": {},
        "odd": {"model": {"kind": "timm", "name": "no_such_network"}},
        "even": {"model": {"kind": "timm", "name": "nor_this_one"}},
    }
    recipe = with_students(recipe_path, named)
    with pytest.raises(RecipeError) as caught:
        check_students(recipe, tiny_corpus, teachers_at_hand(run_of(recipe), tiny_corpus))
    first, second = str(caught.value).splitlines()
    assert first.startswith("student odd: ")
    assert "no_such_network" in first
    assert second.startswith("student even: ")


class TestFreshViews:
    LIVE = ("train.targets=live",)
    FRESH = ("train.targets=live", "train.views=fresh")

    def job(self, path: Path, corpus: PackedCorpus, overrides: Sequence[str]) -> TrainJob:
        (student,) = planned(load_recipe(path, overrides), corpus)
        return student.job

    def views(self, job: TrainJob, corpus: PackedCorpus) -> list[tuple[int, int, torch.Tensor]]:
        """What the student is given in a little more than three epochs: the sample, which of its views, its pixels."""
        stream = BatchStream(
            job.stream,
            job.order,
            corpus=corpus,
            usable_labels=frozenset(),
            targets={kind.name: NoTargets() for kind in job.stream.kinds},
        )
        found: list[tuple[int, int, torch.Tensor]] = []
        batches = stream.batches(worker=0, num_workers=1, consumed=0)
        try:
            for _ in range(3 * corpus.num_samples("train") // 16 + 4):
                (part,) = next(batches).parts
                found += zip(part.sample_ids_B.tolist(), part.view_indices_B.tolist(), part.inputs_BCHW, strict=True)
        finally:
            batches.close()
        return found

    def test_the_first_ones_are_those_that_would_be_stored_and_then_never_one_again(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        going_round = self.views(self.job(recipe_path, tiny_corpus, self.LIVE), tiny_corpus)
        fresh = self.views(self.job(recipe_path, tiny_corpus, self.FRESH), tiny_corpus)
        assert len({(sample_id, index) for sample_id, index, _ in fresh}) == len(fresh)
        assert {index for _, index, _ in fresh} >= {0, 1, 2, 3}
        for (sample_id, index, pixels_CHW), (same_id, stored_index, stored_CHW) in zip(fresh, going_round, strict=True):
            assert (sample_id, index % 2) == (same_id, stored_index)  # two views are stored of each
            assert torch.equal(pixels_CHW, stored_CHW) == (index < 2), (sample_id, index)

    def test_the_view_of_a_turn_is_the_one_that_is_drawn_at_its_index(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        stored = self.views(self.job(recipe_path, tiny_corpus, ("train.targets=live", "views.count=9")), tiny_corpus)
        fresh = self.views(self.job(recipe_path, tiny_corpus, self.FRESH), tiny_corpus)
        assert all(
            one[:2] == other[:2] and torch.equal(one[2], other[2]) for one, other in zip(stored, fresh, strict=True)
        )

    def test_it_is_another_run_however_many_views_could_be_stored(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        fresh, of_three, live, cached = (
            self.job(recipe_path, tiny_corpus, overrides).run_uri
            for overrides in (self.FRESH, (*self.FRESH, "views.count=3"), self.LIVE, ())
        )
        assert fresh == of_three
        assert len({fresh, live, cached}) == 3

    def test_the_losses_are_those_of_live_training_while_the_views_are_the_same(
        self, recipe_path: Path, tiny_corpus: PackedCorpus
    ) -> None:
        often = ("train.epochs=3", "train.log_every_steps=1", "train.global_batch_size=16")
        losses = []
        for overrides in (self.LIVE, self.FRESH):
            job = self.job(recipe_path, tiny_corpus, (*overrides, *often))
            assert isinstance(job.source, LiveSource)
            history = train_alone(job, device="cpu").history
            losses.append(np.array([each["loss"] for each in history if "loss" in each]))
        views = self.views(self.job(recipe_path, tiny_corpus, self.FRESH), tiny_corpus)
        of_two_epochs = next(place for place, (_, index, _) in enumerate(views) if index == 2) // 16
        assert of_two_epochs > tiny_corpus.num_samples("train") // 16
        np.testing.assert_array_equal(losses[0][:of_two_epochs], losses[1][:of_two_epochs])
        assert (losses[0][of_two_epochs:] != losses[1][of_two_epochs:]).all()


def test_a_student_is_the_teacher_of_the_next_one(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path: Path
) -> None:
    """Teacher, student, student: by the folder of a run, which is where its weights are looked for."""
    size = {"input": {"size_px": [24, 24]}}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    recipe, _ = filled(write_recipe(tmp_path / "first", tiny_corpus, tiny_teacher, changes=SMALL))
    (first,) = planned(recipe, tiny_corpus)
    train_alone(first.job, device="cpu")
    own = {"teacher": {"model": first.recipe.student.model.model_dump(), "weights": first.job.run_uri, **size}}
    path = write_recipe(tmp_path / "second", tiny_corpus, tiny_teacher, changes={**SMALL, **own})
    recipe, plan = filled(path)
    (second,) = planned(recipe, tiny_corpus)
    source = second.job.source
    assert isinstance(source, Mapping)
    assert isinstance(source[NAMELESS], CachedSource)
    targets, _ = open_source(second.job, torch.device("cpu"))
    assert targets
    train_alone(second.job, device="cpu")
    assert is_finished(second.job)
    (of_file,) = planned(load_recipe(path, [f"teacher.weights={first.job.run_uri}/model.safetensors"]), tiny_corpus)
    assert of_file.job.run_uri == second.job.run_uri
    by_teacher = plan.training[NAMELESS]["teacher"].job.target_set.identity["teacher"]
    assert by_teacher["weights"] != tiny_teacher.weights_fingerprint
