"""A recipe: one file that fully determines a run. This module imports neither torch nor ray."""

from typing import Annotated

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.corpus import AllLabels, Cluster, Corpus, Labels, NoLabels, PathSplit
from kd_ray.config.models import Name, Resources, Student, Teacher
from kd_ray.config.train import CrossEntropyLoss, FeatureLoss, KdLoss, Train
from kd_ray.config.views import EVALUATION_POLICY, Policy, Views


class CacheSettings(Section):
    """Where targets go and how they are cut into units; null lets the plan choose from the bytes of a view."""

    uri: str
    unit_row_groups: Annotated[int, Field(gt=0)] | None = None
    unit_views: Annotated[int, Field(gt=0)] | None = None


class Evaluate(Section):
    """How models are measured on the held-out split."""

    policy: Policy = EVALUATION_POLICY
    batch_size_per_worker: Annotated[int, Field(gt=0)] = 256
    resources: Resources = Resources()


class Export(Section):
    """What is written of the finished student, besides safetensors and its config."""

    onnx: bool = True


class Recipe(Section):
    """Everything a run needs to know."""

    name: Name
    out: str = Field(description="where this run's outputs go")
    corpus: Corpus
    labels: Labels = AllLabels()
    views: Views
    teacher: Teacher | None = None
    teachers: dict[Name, Teacher] = Field(default={})
    cache: CacheSettings
    student: Student
    train: Train
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        problems = [*self._teacher_problems(), *self._loss_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def all_teachers(self) -> dict[str, Teacher]:
        """Teachers by name; the single `teacher` is called by that word."""
        return {"teacher": self.teacher} if self.teacher is not None else dict(self.teachers)

    def teacher_of(self, loss: KdLoss | FeatureLoss) -> str:
        """The name of the teacher that a loss follows: the one it names, or the only one."""
        return loss.teacher if loss.teacher is not None else next(iter(self.all_teachers()))

    def _teacher_problems(self) -> list[str]:
        if (self.teacher is None) == (not self.teachers):
            return ["give either teacher (one) or teachers (several, by name)"]
        trained = [name for name, teacher in self.all_teachers().items() if teacher.finetune is not None]
        if trained and isinstance(self.labels, NoLabels):
            return [f"{name}: finetune needs labels, but labels.kind is none" for name in trained]
        return []

    def _loss_problems(self) -> list[str]:
        problems = []
        teachers = self.all_teachers()
        for i, loss in enumerate(self.train.losses):
            where = f"train.losses.{i}"
            if isinstance(loss, CrossEntropyLoss):
                if isinstance(self.labels, NoLabels):
                    problems.append(f"{where}: cross_entropy needs labels, but labels.kind is none")
                continue
            if loss.teacher is None and len(teachers) > 1:
                problems.append(f"{where}.teacher: name one of {', '.join(teachers)}")
                continue
            if loss.teacher is not None and loss.teacher not in teachers:
                problems.append(f"{where}.teacher: {loss.teacher!r} is not one of {', '.join(teachers)}")
                continue
            output = "logits" if isinstance(loss, KdLoss) else loss.output
            if teachers and output not in teachers[self.teacher_of(loss)].outputs.names():
                problems.append(f"{where}: needs {output}, which teacher {self.teacher_of(loss)!r} does not store")
        if self.train.reference and isinstance(self.labels, NoLabels):
            problems.append("train.reference: training without the teacher needs labels, but labels.kind is none")
        if isinstance(self.corpus.split, PathSplit) and self.corpus.split.train is None:
            problems.append("corpus.split.train: a run that trains needs a training split")
        return problems
