"""Every operation draws the same params for ever, and every step gives the same pixels under the lock file."""

import json
from typing import get_args

import pytest

from kd_ray.config.views import Operation, RendererVersion
from kd_ray.views import Step
from kd_ray.views.params import StepName
from tests.golden import make_view_operations
from tests.golden.make_view_operations import PATH, drawn, rendered, step_title
from tests.support.view_steps import STEPS, VERSIONS

GOLDEN = json.loads(PATH.read_text())
POLICIES = make_view_operations.policies()
NEUTRAL_IN_VERSIONS = {"brightness", "contrast", "saturation", "sharpness"}


@pytest.mark.parametrize("name", POLICIES)
def test_draws_are_the_committed_ones(name: str) -> None:
    assert [json.loads(each) for each in drawn(POLICIES[name])] == GOLDEN["params"][name]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("step", STEPS, ids=step_title)
def test_pixels_of_steps_are_the_committed_ones(step: Step, version: RendererVersion) -> None:
    assert rendered(step, version) == GOLDEN["pixels"][str(version)][step_title(step)]


def test_nothing_is_left_out() -> None:
    """A new operation or step needs an entry, and none may go."""
    kinds = {each.kind for policy in POLICIES.values() for each in policy.operations}
    known = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Operation)[0])}
    assert kinds == known
    assert {step.name for step in STEPS} == set(get_args(StepName))
    assert GOLDEN["params"].keys() == POLICIES.keys()
    assert all(pixels.keys() == set(map(step_title, STEPS)) for pixels in GOLDEN["pixels"].values())
