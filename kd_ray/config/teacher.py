"""A teacher: its model, its outputs, and where it runs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Location, Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.models import ImportedModel, Input, Model, TeacherModel, refuse_two_weights
from kd_ray.config.networks import ExportedModel
from kd_ray.config.optim import Optimizer, Schedule
from kd_ray.config.outputs import Outputs
from kd_ray.config.resources import Resources, TeacherResources

Precision = Literal["float32", "bfloat16", "float16"]


class Finetune(Section):
    """Supervised training of a teacher on the labels that the recipe allows, before it is frozen."""

    steps: PositiveInt
    global_batch_size: PositiveInt = 64
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: int = 0
    resources: Resources = Resources()


class Teacher(Section):
    """A frozen model that produces targets, what it sees, what is kept of it, and where it runs."""

    model: TeacherModel
    weights: Location | None = Field(default=None, description="safetensors, or a weights-only checkpoint; any URI")
    input: Input
    num_classes: PositiveInt | None = Field(
        default=None, description="null: the corpus's, or the model's own where it comes pretrained and stays as it is"
    )
    precision: Precision = "float32"
    channels_last: bool = Field(default=False, description="faster convolutions on GPUs; decides no byte's identity")
    outputs: Outputs
    finetune: Finetune | None = None
    resources: TeacherResources = TeacherResources()

    @model_validator(mode="after")
    def _has_weights(self) -> "Teacher":
        if isinstance(self.model, ImportedModel):
            self._check_imported()
            return self
        if self.weights is None and not self.model.comes_with_weights and self.finetune is None:
            raise ValueError(
                "a teacher with random weights teaches nothing; give weights, model.pretrained or finetune"
            )
        refuse_two_weights(self.model, self.weights)
        if self.finetune is not None and isinstance(self.model, ExportedModel):
            raise ValueError("finetune: an exported program cannot be trained. Remove it, or give the network itself")
        if self.num_classes is not None and self.finetune is not None:
            raise ValueError("num_classes is that of the corpus where the teacher is finetuned; remove it")
        return self

    @property
    def network(self) -> Model | None:
        """The model that can be built; None of an imported teacher."""
        return None if isinstance(self.model, ImportedModel) else self.model

    def _check_imported(self) -> None:
        found = []
        if self.weights is not None:
            found.append(("weights", "an imported teacher has none: its features are its identity. Remove it"))
        if self.finetune is not None:
            found.append(("finetune", "an imported teacher has no network to train. Remove it"))
        if len(self.outputs.names()) != 1:
            reason = f"files give one output, got {', '.join(self.outputs.names())}. Import each as its own teacher"
            found.append(("outputs", reason))
        elif self.outputs.spatial is not None and self.outputs.spatial.pool is not None:
            found.append(("outputs.spatial.pool", "imported features are stored as they are. Pool them before"))
        if found:
            raise Misfits(found)
