"""The names of units: one unit one name, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.cache.units import Span, Unit
from tests.support.tiny_cache import unit

numbers = st.integers(0, 10**7)
shards = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]*", fullmatch=True)
units = st.builds(
    Unit,
    span=st.builds(Span, shard=shards, group_start=numbers, group_stop=numbers),
    view_start=numbers,
    view_stop=numbers,
)


@given(units)
def test_a_unit_is_read_back_from_its_id(each: Unit) -> None:
    assert Unit.from_id(each.id) == each


def test_the_id_is_fixed_by_the_format() -> None:
    assert unit(4, 6, shard="train-00003", groups=(8, 16)).id == "train-00003.g00008-00016.v0004-0006"


@pytest.mark.parametrize(
    "text",
    ["", "train", "s.g0-1.v0-1", "s.g00000-00001.v0000-0001\n", "s.g00000-00001.v0000", ".g00000-00001.v0000-0001"],
)
def test_another_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a unit"):
        Unit.from_id(text)


def test_units_sort_by_shard_groups_and_views() -> None:
    ordered = [unit(0, 9, shard="a"), unit(9, 12, shard="a"), unit(10, 11, shard="a"), unit(0, 1, shard="b")]
    assert sorted([ordered[2], ordered[0], ordered[3], ordered[1]]) == ordered
