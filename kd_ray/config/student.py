"""A student: its model and its pixels."""

from pydantic import model_validator

from kd_ray.config.base import Location, Section
from kd_ray.config.models import Input, Model, Name, TimmModel


class Student(Section):
    """The model that is trained, and the pixels it gets."""

    name: Name = "student"
    model: Model
    weights: Location | None = None
    input: Input

    @model_validator(mode="after")
    def _one_start(self) -> "Student":
        if self.weights is not None and isinstance(self.model, TimmModel) and self.model.pretrained:
            raise ValueError("both weights and model.pretrained are given; keep one")
        return self
