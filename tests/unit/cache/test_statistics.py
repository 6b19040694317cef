"""Statistics of units, merged in any order, are those of all values together."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.cache.statistics import ChannelStatistics
from tests.support.tiny_cache import IDS, new_output, unit, values_of

FIELDS = ("mean", "variance", "minimum", "maximum")


def _assert_same(found: ChannelStatistics, values_ND: np.ndarray, *, relative: float = 1e-12) -> None:
    exact_ND = values_ND.astype(np.longdouble)  # two passes in 80 bits: the oracle is no part of the error
    mean = exact_ND.mean(axis=0)
    assert found.count == len(values_ND)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=relative, atol=relative)
    variance = ((exact_ND - mean) ** 2).mean(axis=0).astype(float)
    np.testing.assert_allclose(found.variance, variance, rtol=relative)
    np.testing.assert_array_equal(found.minimum, values_ND.min(axis=0))
    np.testing.assert_array_equal(found.maximum, values_ND.max(axis=0))


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.integers(0, 2**32 - 1),
)
def test_merging_in_any_order_equals_two_passes_over_everything(
    sizes: list[int], order: "st.RandomGenerator", seed: int
) -> None:
    random = np.random.default_rng(seed)
    # three channels: plain, far from zero, tiny; one value more per part so that the variance is never near zero
    parts = [random.normal([0, 40, 0], [1, 3, 1e-6], (size + 1, 3)).astype(np.float32) for size in sizes]
    shuffled = list(parts)
    order.shuffle(shuffled)
    merged = _merge_anyhow([ChannelStatistics.of(part) for part in shuffled], order)
    _assert_same(merged, np.concatenate(parts))


def _merge_anyhow(parts: Sequence[ChannelStatistics], order: "st.RandomGenerator") -> ChannelStatistics:
    """As any tree."""
    if len(parts) == 1:
        return parts[0]
    cut = order.randint(1, len(parts) - 1)
    return _merge_anyhow(parts[:cut], order).merged(_merge_anyhow(parts[cut:], order))


def test_all_axes_but_the_last_are_rows() -> None:
    values_VNHWD = np.arange(2 * 3 * 2 * 2 * 4, dtype=np.float32).reshape(2, 3, 2, 2, 4)
    _assert_same(ChannelStatistics.of(values_VNHWD), values_VNHWD.reshape(-1, 4))


def test_a_constant_channel_has_no_variance() -> None:
    constant = ChannelStatistics.of(np.full((7, 2), 0.1, dtype=np.float32))
    merged = reduce(ChannelStatistics.merged, [constant] * 9)
    # rounding of the mean, squared
    assert merged.variance.max() <= (0.1 * np.finfo(float).eps * 63) ** 2
    np.testing.assert_array_equal(merged.minimum, merged.maximum)


def test_json_gives_the_same_bits_back() -> None:
    statistics = ChannelStatistics.of(np.array([[1 / 3, -0.0], [2e-30, 5.0]], dtype=np.float32))
    again = ChannelStatistics.from_json(statistics.to_json())
    assert again.count == statistics.count
    assert [getattr(again, name).tobytes() for name in FIELDS] == [
        getattr(statistics, name).tobytes() for name in FIELDS
    ]


def test_an_output_merges_those_of_its_units(tmp_path: Path) -> None:
    output = new_output(str(tmp_path))
    units = [unit(0, 2), unit(2, 3)]
    for each in units:
        output.write(each, values_of(each), IDS, attempt="a0")
    found = output.statistics(output.collection.commits().values())
    _assert_same(found, np.concatenate([values_of(each).reshape(-1, 3) for each in units]))


def test_statistics_are_of_the_values_before_they_are_rounded(tmp_path: Path) -> None:
    output = new_output(str(tmp_path))
    values_VND = values_of(unit()) + np.float32(1e-4)
    output.write(unit(), values_VND, IDS, attempt="a0")
    found = output.statistics(output.collection.commits().values())
    assert found.mean == pytest.approx(values_VND.reshape(-1, 3).mean(axis=0, dtype=np.float64), rel=1e-12)
