"""Two students that learn from each other in one loop: the losses, the start, what is saved, and exact resuming."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from kd_ray.config.load import load_recipe
from kd_ray.config.losses import CrossEntropyLoss, KdLoss
from kd_ray.config.recipe import Recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import RecipeError
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.training.fit import Metrics, State
from kd_ray.training.job import (
    TrainJob,
    build_network,
    decode_state,
    encode_state,
    is_finished,
    train,
    train_alone,
)
from kd_ray.training.losses.labels import Labels
from kd_ray.training.losses.weighted import WeightedLosses
from kd_ray.training.mutual import MutualLosses, MutualStudents, students_of
from pipelines.stages.many import PlannedStudent, loops_of
from tests.integration.test_many_students import planned
from tests.support.tiny_recipe import filled, write_recipe

STUDENTS = {"one": {}, "other": {"train": {"losses": [{"kind": "kd", "temperature": 2.0}, {"kind": "cross_entropy"}]}}}
TOGETHER = {
    "students": STUDENTS,
    "train": {
        "epochs": 1,
        "global_batch_size": 16,
        "log_every_steps": 1,
        "mutual": {"weight": 0.5, "temperature": 2.0},
    },
}


@pytest.fixture(scope="module")
def recipe_path(
    tiny_corpus: PackedCorpus, tiny_teacher: KnownTeacher, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = write_recipe(tmp_path_factory.mktemp("mutual"), tiny_corpus, tiny_teacher, changes=TOGETHER)
    filled(path)
    return path


@pytest.fixture(scope="module")
def pair(recipe_path: Path, tiny_corpus: PackedCorpus) -> list[PlannedStudent]:
    return planned(load_recipe(recipe_path, []), tiny_corpus)


class Kept:
    """Hooks that keep every checkpoint."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def log(self, step: int, metrics: Metrics) -> None: ...

    def evaluate(self, step: int) -> Metrics:
        return {}

    def checkpoint(self, state: State) -> None:
        self.states.append(decode_state(encode_state(state)))


def weights_of(student: PlannedStudent) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(f"{student.job.run_uri}/model.safetensors")


def test_each_learns_from_its_losses_and_from_what_the_other_says_now() -> None:
    random = torch.Generator().manual_seed(0)
    first_BK, second_BK, target_BK = (torch.randn(5, 3, generator=random) for _ in range(3))
    labels = Labels(own_B=torch.tensor([0, 1, 2, 0, 1]), partner_B=torch.full((5,), -1), weights_B=torch.ones(5))
    label_loss, kd = CrossEntropyLoss(kind="cross_entropy"), KdLoss(kind="kd", temperature=3.0)
    losses = MutualLosses(
        students=(
            WeightedLosses(losses=(label_loss,), teachers=(None,)),
            WeightedLosses(losses=(kd,), teachers=("teacher",)),
        ),
        weight=0.5,
        temperature=2.0,
    )
    outputs = {"0/logits": first_BK.clone().requires_grad_(), "1/logits": second_BK.clone().requires_grad_()}
    total, terms = losses(outputs, labels, {("teacher", "logits"): target_BK})
    total.backward()

    def kl(own: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
        target = (other / temperature).softmax(-1)
        return temperature**2 * (target * (target.log() - (own / temperature).log_softmax(-1))).sum(-1).mean()

    for index, (own_BK, other_BK) in enumerate(((first_BK, second_BK), (second_BK, first_BK))):
        own = own_BK.clone().requires_grad_()
        taught = F.cross_entropy(own, labels.own_B) if index == 0 else kl(own, target_BK, 3.0)
        (taught + 0.5 * kl(own, other_BK, 2.0)).backward()
        torch.testing.assert_close(outputs[f"{index}/logits"].grad, own.grad)
        torch.testing.assert_close(terms[f"{index}/mutual"], kl(own, other_BK, 2.0).detach())


def test_both_are_trained_saved_and_told_of_by_their_own_terms(
    pair: list[PlannedStudent], recipe_path: Path, tiny_corpus: PackedCorpus
) -> None:
    (loop,) = loops_of(pair)
    result = train_alone(loop, device="cpu")
    assert all(is_finished(each.job) for each in pair)
    assert [each.job.name for each in pair] == ["one", "other"]
    first, second = map(weights_of, pair)
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("conv1.weight"))
    history = [entry for entry in result.history if "loss" in entry]
    assert {"0/0_kd", "0/mutual", "1/0_kd", "1/1_cross_entropy", "1/mutual"} <= set(history[0])
    (again,) = loops_of(planned(load_recipe(recipe_path, []), tiny_corpus))
    assert is_finished(again)


def test_they_do_learn_from_each_other(
    pair: list[PlannedStudent], recipe_path: Path, tiny_corpus: PackedCorpus
) -> None:
    """A student of the pair is another one than it is alone, and its run too."""
    (loop,) = loops_of(pair)
    alone = load_recipe(recipe_path, []).model_dump(mode="json")
    alone["train"].pop("mutual")
    students = planned(Recipe.model_validate(alone), tiny_corpus)
    assert not {each.job.run_uri for each in students} & {each.job.run_uri for each in pair}
    losses = [
        [entry[name] for entry in _history(job, tiny_corpus) if "loss" in entry]
        for job, name in ((loop, "0/0_kd"), (students[0].job, "0_kd"))
    ]
    assert losses[0][0] == losses[1][0]  # the same start and first batch
    assert losses[0][1:] != losses[1][1:]


def _history(job: TrainJob, corpus: PackedCorpus) -> list[Metrics]:
    return train(job, build_network(job), corpus=corpus, worker=0, num_workers=1, hooks=Kept(), resume=None).history


def test_a_pair_that_was_interrupted_ends_as_if_it_had_not_been(recipe_path: Path, tiny_corpus: PackedCorpus) -> None:
    recipe = load_recipe(recipe_path, ["train.checkpoint_every_steps=3"])
    (job,) = loops_of(planned(recipe, tiny_corpus))

    def run(resume: State | None) -> tuple[MutualStudents, Kept]:
        hooks, network = Kept(), build_network(job)
        train(job, network, corpus=tiny_corpus, worker=0, num_workers=1, hooks=hooks, resume=resume)
        assert isinstance(network, MutualStudents)
        return network, hooks

    whole, hooks = run(None)
    resumed, _ = run(hooks.states[0])
    assert hooks.states[0]["step"] == 3
    assert len(students_of(whole)) == 2
    found, wanted = resumed.state_dict(), whole.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (("students.third={}",), "train.mutual"),
        (("sweep.grid.train.seed=[1,2]",), "train.mutual"),
        (("students.one.input={size_px: [32, 32]}",), "students.one.input"),
        (("students.one.train.epochs=3",), "students.one.train.epochs"),
        (("train.missing_targets=skip",), "train.missing_targets"),
        (("train.parallel=fsdp",), "train.parallel"),
        (("train.teacher_dropout=0.5",), "train.teacher_dropout"),
        (("train.balance=uncertainty",), "train.balance"),
    ],
)
def test_students_that_cannot_train_together_are_refused(
    recipe_path: Path, overrides: tuple[str, ...], path: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_path, overrides)
    assert f": {path}: " in str(caught.value)


def test_a_student_without_a_loss_on_its_logits_is_refused(recipe_path: Path, tiny_corpus: PackedCorpus) -> None:
    feature: Mapping[str, Any] = {"kind": "feature", "output": "summary"}
    recipe = load_recipe(recipe_path, [f"students.one.train.losses=[{dict(feature)}]"])
    with pytest.raises(RecipeError, match="no loss of student one is on its own"):
        planned(recipe, tiny_corpus)
