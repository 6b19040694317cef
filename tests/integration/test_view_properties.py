"""What is promised of all views, on any images, under any policy, at any size; many more examples are slow tests.

Images are of every mode and format that a corpus takes, from 1x1 to 4000x30, and decoded as a run decodes them.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.presets import PRESETS
from kd_ray.config.views import Policy
from tests.support.stored_images import image_sizes_px
from tests.support.view_cases import ViewCase, view_cases
from tests.support.view_geometry_checks import check_geometry
from tests.support.view_properties import check_nothing_else_decides, check_replayed_again, check_stored_params
from tests.support.view_strategies import FIELDS, MOVING_KINDS, OPERATIONS, policies, preset_policies, sizes_px

few = settings(max_examples=8, deadline=None)
many = settings(max_examples=1_500, deadline=None)
any_geometry = (
    policies(mixed=False, of=MOVING_KINDS) | policies(mixed=False) | preset_policies(),
    image_sizes_px,
    sizes_px,
    st.integers(0, 2**64 - 1),
)


@few
@given(view_cases(max_samples=3))
def test_a_view_is_the_same_again_in_any_order_and_thread(case: ViewCase) -> None:
    check_replayed_again(case)


@few
@given(view_cases(max_samples=2))
def test_stored_params_give_the_pixels_that_drawing_gives(case: ViewCase) -> None:
    check_stored_params(case)


@few
@given(view_cases(max_samples=3))
def test_nothing_but_its_key_decides_a_view(case: ViewCase) -> None:
    check_nothing_else_decides(case)


@settings(max_examples=60, deadline=None)
@given(*any_geometry)
def test_geometry_goes_there_and_back_and_is_what_render_does(
    policy: Policy, image_size_px: tuple[int, int], size_px: tuple[int, int], sample_id: int
) -> None:
    check_geometry(policy, image_size_px, size_px, sample_id)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_every_preset_keeps_all_of_it(name: str, data: st.DataObject) -> None:
    case = data.draw(view_cases(any_policy=preset_policies((name,)), max_samples=2))
    check_replayed_again(case)
    check_stored_params(case)
    check_nothing_else_decides(case)


def test_no_strategy_is_left_over() -> None:
    """Of an operation that is gone or has another name; one without a strategy is drawn with its defaults."""
    assert {"rand_augment", *FIELDS} <= set(OPERATIONS)


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    """One fresh interpreter, which inherits nothing but the environment."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@settings(max_examples=25, deadline=None)
@given(case=view_cases())
def test_another_process_sees_the_same(other_process: ProcessPoolExecutor, case: ViewCase) -> None:
    assert other_process.submit(case.all_seen).result() == case.all_seen()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
class TestManyMore:
    @many
    @given(case=view_cases())
    def test_another_process_sees_the_same(self, other_process: ProcessPoolExecutor, case: ViewCase) -> None:
        assert other_process.submit(case.all_seen).result() == case.all_seen()

    @many
    @given(view_cases())
    def test_a_view_is_the_same_again_in_any_order_and_thread(self, case: ViewCase) -> None:
        check_replayed_again(case)

    @many
    @given(view_cases())
    def test_stored_params_give_the_pixels_that_drawing_gives(self, case: ViewCase) -> None:
        check_stored_params(case)

    @many
    @given(view_cases())
    def test_nothing_but_its_key_decides_a_view(self, case: ViewCase) -> None:
        check_nothing_else_decides(case)

    @settings(max_examples=20_000, deadline=None)
    @given(*any_geometry)
    def test_geometry_goes_there_and_back_and_is_what_render_does(
        self, policy: Policy, image_size_px: tuple[int, int], size_px: tuple[int, int], sample_id: int
    ) -> None:
        check_geometry(policy, image_size_px, size_px, sample_id)
