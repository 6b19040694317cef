"""Rates that are given instead of measured: how fast each accelerator runs the teachers, and what its hour costs."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.problems import describe, problems_of
from kd_ray.errors import RecipeError

Positive = Annotated[float, Field(gt=0)]


class AcceleratorRate(Section):
    """Of one accelerator type: views a second by teacher (the single `teacher` is called by that word), the price."""

    views_per_s: dict[str, Positive]
    price_per_hour: Annotated[float, Field(ge=0)] | None = None


class Rates(Section):
    """What a file of rates says."""

    accelerators: dict[str, AcceleratorRate]
    student_images_per_s: Positive | None = Field(default=None, description="of one training worker")

    @model_validator(mode="after")
    def _names_one(self) -> "Rates":
        if not self.accelerators:
            raise Misfits([("accelerators", "none is named; give at least one with its views_per_s")])
        return self


def load_rates(path: Path) -> Rates:
    """The rates in a YAML file.

    Raises:
        RecipeError: everything that is wrong with it.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"--rates {path}: cannot be read: {error.strerror}. Give a YAML file of rates.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"--rates {path}: is not valid YAML: {type(error).__name__}. Correct it.") from error
    try:
        return Rates.model_validate(values)
    except ValidationError as error:
        problems = problems_of(error, Rates, origins={}, default_origin=str(path))
        raise RecipeError(describe(problems, what="the file of rates")) from error
