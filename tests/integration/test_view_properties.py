"""What is promised of all views, in another process, and on many more examples than the unit tests take."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.views import Policy
from kd_ray.views import draw
from tests.support.stored_images import image_sizes_px
from tests.support.view_cases import ViewCase, mask_of, view_cases
from tests.support.view_geometry_checks import check_against_render, check_round_trip
from tests.support.view_properties import check_nothing_else_decides, check_replayed_again, check_stored_params
from tests.support.view_strategies import MOVING_KINDS, policies, preset_policies, sizes_px


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    """One fresh interpreter, which inherits nothing but the environment."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@settings(max_examples=25, deadline=None)
@given(case=view_cases())
def test_another_process_sees_the_same(other_process: ProcessPoolExecutor, case: ViewCase) -> None:
    assert other_process.submit(case.all_seen).result() == case.all_seen()


many = settings(max_examples=1_500, deadline=None)


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
    @given(
        policy=policies(mixed=False, of=MOVING_KINDS) | policies(mixed=False) | preset_policies(),
        image_size_px=image_sizes_px,
        size_px=sizes_px,
        sample_id=st.integers(0, 2**64 - 1),
    )
    def test_geometry_goes_there_and_back_and_is_what_render_does(
        self, policy: Policy, image_size_px: tuple[int, int], size_px: tuple[int, int], sample_id: int
    ) -> None:
        params = draw(
            policy,
            seed=0,
            sample_id=sample_id,
            view_index=0,
            image_size_px=image_size_px,
            mask_HW=mask_of(sample_id) if policy.reads_masks else None,
        )
        check_round_trip(params, image_size_px, size_px)
        check_against_render(params, image_size_px, size_px)
