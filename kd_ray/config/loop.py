"""Averages of weights, and what ends a training run before its last step."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from kd_ray.config.base import Section
from kd_ray.config.corpus import PositiveInt

SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(?P<count>\d+(\.\d+)?)(?P<unit>[smhd])")


class Ema(Section):
    """An exponential moving average of the weights: after each step average += (1 - decay) (weights - average).

    With `warmup` the decay of step n is at most (1 + n) / (10 + n), so that a short run does not keep its start.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = True


class EarlyStopping(Section):
    """Ends a run after `patience` evaluations in a row that are not above the best one before by `min_delta`."""

    patience: PositiveInt = 5
    min_delta: Annotated[float, Field(ge=0)] = 0.0


def _duration(text: str) -> str:
    if DURATION.fullmatch(text) is None or seconds_of(text) == 0:
        raise ValueError(f"give a number and s, m, h or d, as 90m or 2h, got {text!r}")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
"""A number and its unit: 45s, 90m, 2h, 1.5d."""


def seconds_of(duration: Duration) -> float:
    """90m is 5400."""
    found = DURATION.fullmatch(duration)
    assert found is not None, duration
    return float(found["count"]) * SECONDS_OF[found["unit"]]
