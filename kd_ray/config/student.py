"""A student: its model and its pixels."""

from pydantic import model_validator

from kd_ray.config.base import Location, Section
from kd_ray.config.models import Input, Name, StudentNetwork, refuse_two_weights


class Student(Section):
    """The model that is trained, and the pixels it gets."""

    name: Name = "student"
    model: StudentNetwork
    weights: Location | None = None
    input: Input

    @model_validator(mode="after")
    def _one_start(self) -> "Student":
        refuse_two_weights(self.model, self.weights)
        return self
