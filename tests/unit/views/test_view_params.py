"""View params as JSON: exact both ways, one form per value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.errors import CacheCorrupt
from kd_ray.views.params import (
    CenterCropParams,
    CropParams,
    FlipParams,
    JitterParams,
    OperationParams,
    ViewParams,
    params_from_json,
    params_to_json,
)

floats = st.floats(allow_nan=False, allow_infinity=False)
operations: st.SearchStrategy[OperationParams] = st.one_of(
    st.builds(CropParams, left=floats, top=floats, width=floats, height=floats),
    st.builds(CenterCropParams, crop_fraction=floats),
    st.builds(FlipParams, flipped=st.booleans()),
    st.builds(
        JitterParams,
        applied=st.booleans(),
        brightness=floats,
        contrast=floats,
        saturation=floats,
        hue=floats,
        order=st.permutations(range(4)).map(tuple),
    ),
)


@settings(deadline=None)
@given(st.lists(operations).map(tuple))
def test_json_gives_back_the_same_bits(params: ViewParams) -> None:
    text = params_to_json(params)
    assert params_from_json(text) == params
    assert params_to_json(params_from_json(text)) == text  # also tells -0.0 from 0.0


def test_the_json_form_never_changes() -> None:
    params: ViewParams = (
        CropParams(left=0.1, top=1 / 3, width=0.5, height=0.25),
        FlipParams(flipped=True),
        JitterParams(applied=True, brightness=1.25, contrast=1.0, saturation=0.8, hue=-0.05, order=(2, 0, 3, 1)),
    )
    assert params_to_json(params) == (
        '[{"height":0.25,"kind":"crop","left":0.1,"top":0.3333333333333333,"width":0.5},'
        '{"flipped":true,"kind":"flip"},'
        '{"applied":true,"brightness":1.25,"contrast":1.0,"hue":-0.05,"kind":"jitter","order":[2,0,3,1],"saturation":0.8}]'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[1]",
        "[{}]",
        '[{"kind":"mixup"}]',
        '[{"kind":"flip"}]',
        '[{"kind":"flip","flipped":true,"upside_down":true}]',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(CacheCorrupt, match="view params"):
        params_from_json(text)
