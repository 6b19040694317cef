"""A recipe: one file that fully determines a run. This module imports neither torch nor ray."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from kd_ray.config.base import Location, Misfits, Section
from kd_ray.config.corpus import (
    AllLabels,
    Cluster,
    Corpus,
    Labels,
    NoLabels,
    PathSplit,
    sources_without_masks,
)
from kd_ray.config.losses import CrossEntropyLoss, LogitsLoss, OnFeatures
from kd_ray.config.models import Name
from kd_ray.config.resources import Resources
from kd_ray.config.student import Student
from kd_ray.config.sweep import Sweep, misplaced, mutual_problems
from kd_ray.config.teacher import Teacher
from kd_ray.config.train import Train
from kd_ray.config.views import EVALUATION_POLICY, Policy, Views


class CacheSettings(Section):
    """Where targets go and how they are cut into units; null lets the plan choose from the bytes of a view."""

    uri: Location
    unit_row_groups: Annotated[int, Field(gt=0)] | None = None
    unit_views: Annotated[int, Field(gt=0)] | None = None


class Evaluate(Section):
    """How models are measured on the held-out split."""

    policy: Policy = EVALUATION_POLICY
    batch_size_per_worker: Annotated[int, Field(gt=0)] = 256
    num_reference_images: Annotated[int, Field(gt=0)] = Field(
        default=20_000,
        description="kNN and the linear probe learn from at most so many training images",
    )
    resources: Resources = Resources()


class Export(Section):
    """What is written of the finished student, besides safetensors and its config."""

    onnx: bool = True
    torch_export: bool = Field(default=False, description="a program of torch.export, model.pt2")
    heads: bool = Field(default=False, description="keep the projection heads: features as the teachers give them")


class Recipe(Section):
    """Everything a run needs to know."""

    name: Name
    out: Location = Field(description="where this run's outputs go")
    corpus: Corpus
    labels: Labels = AllLabels()
    views: Views
    teacher: Teacher | None = None
    teachers: dict[Name, Teacher] = Field(default={})
    cache: CacheSettings
    student: Student
    students: dict[Name, dict[str, Any]] = Field(
        default={},
        description="several students by name, each with the fields of student (and under train of train) that differ",
        exclude_if=lambda students: not students,
    )
    sweep: Sweep | None = Field(default=None, exclude_if=lambda sweep: sweep is None)
    train: Train
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        problems = [
            *self._teacher_problems(),
            *self._imported_problems(),
            *self._loss_problems(),
            *self._balance_problems(),
            *self._data_problems(),
            *self._mask_problems(),
            *self._kind_problems(),
            *self._repeat_problems(),
            *self._student_problems(),
        ]
        if problems:
            raise Misfits(problems)
        return self

    @property
    def has_many_students(self) -> bool:
        """Whether `student` and `train` are what several students have in common, not one student by itself."""
        return bool(self.students) or self.sweep is not None

    def all_teachers(self) -> dict[str, Teacher]:
        """Teachers by name; the single `teacher` is called by that word."""
        return {"teacher": self.teacher} if self.teacher is not None else dict(self.teachers)

    def teacher_of(self, loss: LogitsLoss | OnFeatures) -> str:
        """The name of the teacher that a loss follows: the one it names, or the only one."""
        return loss.teacher if loss.teacher is not None else next(iter(self.all_teachers()))

    def _teacher_problems(self) -> list[tuple[str, str]]:
        if (self.teacher is None) == (not self.teachers):
            return [("teacher", "give either teacher (one) or teachers (several, by name)")]
        return [
            (f"{path}.finetune", "finetune needs labels, but labels.kind is none")
            for path, teacher in self.teachers_by_path().items()
            if teacher.finetune is not None and isinstance(self.labels, NoLabels)
        ]

    def _imported_problems(self) -> list[tuple[str, str]]:
        found = []
        for path, teacher in self.teachers_by_path().items():
            if teacher.network is not None:
                continue
            if self.train.targets == "live":
                found.append((f"{path}.model", "an imported teacher cannot run live. Set train.targets: cached"))
            if self.views.policy.kinds:
                found.append((f"{path}.model", "features are of views of one kind, but views.policy has kinds"))
        return found

    def teachers_by_path(self) -> dict[str, Teacher]:
        """Teachers by the dotted path of their section."""
        if self.teacher is not None:
            return {"teacher": self.teacher}
        return {f"teachers.{name}": teacher for name, teacher in self.teachers.items()}

    def _loss_problems(self) -> list[tuple[str, str]]:
        found = []
        teachers = self.all_teachers()
        for i, loss in enumerate(self.train.losses):
            where = f"train.losses.{i}"
            if isinstance(loss, CrossEntropyLoss):
                if isinstance(self.labels, NoLabels):
                    found.append((where, "cross_entropy needs labels, but labels.kind is none"))
                continue
            if not teachers:
                continue
            if loss.teacher is None and len(teachers) > 1:
                found.append((f"{where}.teacher", f"name one of {', '.join(teachers)}"))
                continue
            if loss.teacher is not None and loss.teacher not in teachers:
                found.append((f"{where}.teacher", f"{loss.teacher!r} is not one of {', '.join(teachers)}"))
                continue
            name = self.teacher_of(loss)
            output = "logits" if isinstance(loss, LogitsLoss) else loss.output
            if output not in teachers[name].outputs.names():
                stored = ", ".join(teachers[name].outputs.names())
                found.append((where, f"needs {output}, which teacher {name!r} does not store; it stores {stored}"))
                continue
            kept = teachers[name].outputs.stored_as(output).temperatures
            if isinstance(loss, LogitsLoss) and kept is not None and not loss.takes_top_k:
                needs = f"{loss.kind} needs all logits, but teacher {name!r} stores the top_k"
                reason = f"{needs}; store them whole (outputs.logits), or take kd without standardize_logits"
                found.append((where, reason))
            elif isinstance(loss, LogitsLoss) and kept is not None and loss.temperature not in kept:
                stored = ", ".join(f"{each:g}" for each in kept)
                reason = (
                    f"teacher {name!r} stores top_k logits for temperatures {stored}; take one of them, or add "
                    f"{loss.temperature:g} to its outputs.logits.temperatures"
                )
                found.append((f"{where}.temperature", reason))
        return found

    def _balance_problems(self) -> list[tuple[str, str]]:
        """Settings for several teachers where the losses follow one."""
        followed = {loss.teacher for loss in self.train.losses if not isinstance(loss, CrossEntropyLoss)}
        if len(followed) > 1:
            return []
        reason = "is for losses of several teachers, and these follow one. Remove it, or add a loss of another teacher"
        found = []
        if self.train.balance != "fixed":
            found.append(("train.balance", f"balance: {self.train.balance} {reason}"))
        if self.train.teacher_dropout:
            found.append(("train.teacher_dropout", f"teacher_dropout {reason}"))
        return found

    def _mask_problems(self) -> list[tuple[str, str]]:
        without = sources_without_masks(self.corpus)
        if not without:
            return []
        reason = (
            f"cat_max_ratio places crops by masks, and {' and '.join(without)} has none. Set cat_max_ratio: null, "
            "name where the masks are (mask_column, mask_extension, or kind: segmentation), or give "
            "corpus.overrides_uri"
        )
        policies = {"views.policy": self.views.policy, "evaluate.policy": self.evaluate.policy}
        return [(path, reason) for path, policy in policies.items() if policy.reads_masks]

    def _data_problems(self) -> list[tuple[str, str]]:
        found = []
        if self.export.heads and not any(isinstance(loss, OnFeatures) for loss in self.train.losses):
            found.append(("export.heads", "no loss has a projection head. Remove it, or add a feature loss"))
        if self.train.reference and isinstance(self.labels, NoLabels):
            found.append(("train.reference", "training without the teacher needs labels, but labels.kind is none"))
        if self.views.policy.mix is not None and self.corpus.row_group_size == 1:
            found.append(
                (
                    "views.policy.mix",
                    "a view is mixed with one of the same row group, but corpus.row_group_size is 1. Raise it, or "
                    "remove mix",
                )
            )
        if self.evaluate.policy.mix is not None:
            found.append(("evaluate.policy.mix", "images are evaluated as they are; remove mix"))
        if self.evaluate.policy.kinds:
            found.append(("evaluate.policy.kinds", "an image is evaluated by one view; give operations instead"))
        if self.evaluate.policy.repeats > 1:
            found.append(("evaluate.policy.repeats", "an image is evaluated once; remove repeats"))
        if isinstance(self.corpus.split, PathSplit) and self.corpus.split.train is None:
            found.append(("corpus.split.train", "a run that trains needs a training split"))
        return found

    def _kind_problems(self) -> list[tuple[str, str]]:
        """Sizes for kinds that the policy does not have."""
        kinds = self.views.policy.kinds
        told = f"it has {', '.join(kinds)}" if kinds else "it has no kinds; change size_px, or give the policy kinds"
        models: dict[str, Teacher | Student] = {**self.teachers_by_path(), "student": self.student}
        return [
            (f"{path}.input.kind_sizes_px.{kind}", f"{kind!r} is no kind of policy {self.views.policy.name!r}; {told}")
            for path, model in models.items()
            for kind in model.input.kind_sizes_px
            if kind not in kinds
        ]

    def _student_problems(self) -> list[tuple[str, str]]:
        """What is wrong with the list of students; each by itself is looked at by `kd_ray.config.students`."""
        taken = set(self.all_teachers())
        return [
            *misplaced(self.students, self.sweep),
            *((f"students.{name}", "a teacher has this name") for name in self.students if name in taken),
            *(mutual_problems(self.students, self.sweep) if self.train.mutual is not None else ()),
        ]

    def _repeat_problems(self) -> list[tuple[str, str]]:
        """Batches that do not hold whole turns: every sample with all its repeats, as many in each lane."""
        repeats = self.views.policy.repeats
        if repeats == 1:
            return []
        lanes = {"train": (self.train.global_batch_size, self.train.lanes)}
        lanes |= {
            f"{path}.finetune": (teacher.finetune.global_batch_size, 1)
            for path, teacher in self.teachers_by_path().items()
            if teacher.finetune is not None
        }
        return [
            (
                f"{path}.global_batch_size",
                f"global_batch_size ({size}) must be a multiple of views.policy.repeats ({repeats})"
                f"{f' times lanes ({num_lanes})' if num_lanes > 1 else ''}: it counts a sample once for each repeat. "
                f"The next is {-(-size // (repeats * num_lanes)) * repeats * num_lanes}",
            )
            for path, (size, num_lanes) in lanes.items()
            if size % (repeats * num_lanes)
        ]
