"""Which units there must be: every view of every span once, and nothing that exists is cut anew."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kd_ray.cache.plan import (
    MAX_OBJECT_BYTES,
    TARGET_RANGE_BYTES,
    Grid,
    choose_grid,
    missing_units,
    spans_of,
    wanted_units,
)
from kd_ray.cache.units import Unit
from tests.support.tiny_cache import unit

SPANS = spans_of({"a": 3, "b": 2}, unit_row_groups=2)
small = st.integers(1, 7)
growths = st.lists(st.tuples(small, st.integers(0, 2**12)), max_size=5)  # views asked for; which units got done


def _grow(growth: list[tuple[int, int]], grid: Grid) -> list[Unit]:
    """What is committed after runs that asked for ever other numbers of views and were interrupted anywhere."""
    done: list[Unit] = []
    for num_views, mask in growth:
        wanted = wanted_units(SPANS, num_views=num_views, grid=grid, existing=done)
        done += [each for i, each in enumerate(missing_units(wanted, done)) if mask >> (i % 12) & 1]
    return done


@given(growths, small, small)
def test_every_view_of_every_span_is_wanted_exactly_once(growth: list[tuple[int, int]], cut: int, views: int) -> None:
    grid = Grid(unit_row_groups=2, unit_views=cut)
    wanted = wanted_units(SPANS, num_views=views, grid=grid, existing=_grow(growth, grid))
    seen = Counter((each.span, view) for each in wanted for view in range(each.view_start, each.view_stop))
    assert {key: seen[key] for key in ((span, view) for span in SPANS for view in range(views))} == {
        (span, view): 1 for span in SPANS for view in range(views)
    }
    assert set(seen.values()) == {1}


@given(growths, small, small)
def test_every_block_that_exists_is_kept(growth: list[tuple[int, int]], cut: int, views: int) -> None:
    grid = Grid(unit_row_groups=2, unit_views=cut)
    existing = _grow(growth, grid)
    wanted = wanted_units(SPANS, num_views=views, grid=grid, existing=existing)
    assert {each for each in existing if each.view_start < views} <= set(wanted)


@given(growths, small, small)
def test_what_was_wanted_and_done_is_wanted_again(growth: list[tuple[int, int]], cut: int, views: int) -> None:
    grid = Grid(unit_row_groups=2, unit_views=cut)
    existing = _grow(growth, grid)
    wanted = wanted_units(SPANS, num_views=views, grid=grid, existing=existing)
    assert wanted_units(SPANS, num_views=views, grid=grid, existing=[*existing, *wanted]) == wanted


@given(small, small)
def test_new_units_end_where_the_grid_says(cut: int, views: int) -> None:
    wanted = wanted_units(SPANS, num_views=views, grid=Grid(unit_row_groups=2, unit_views=cut), existing=[])
    assert all(each.view_start % cut == 0 and each.num_views <= cut for each in wanted)


def test_of_overlapping_blocks_the_longest_is_taken() -> None:
    existing = [unit(0, 2, shard="a"), unit(0, 4, shard="a")]
    wanted = wanted_units(
        [existing[0].span], num_views=6, grid=Grid(unit_row_groups=2, unit_views=4), existing=existing
    )
    assert wanted == [unit(0, 4, shard="a"), unit(4, 6, shard="a")]


def test_spans_cover_all_groups_of_every_shard() -> None:
    assert [(span.shard, span.group_start, span.group_stop) for span in SPANS] == [
        ("a", 0, 2),
        ("a", 2, 3),
        ("b", 0, 2),
    ]


def test_missing_are_the_wanted_that_no_commit_names_in_their_order() -> None:
    wanted = [unit(4, 6), unit(0, 2), unit(2, 4)]
    assert missing_units(wanted, [unit(0, 2), unit(8, 9)]) == [unit(4, 6), unit(2, 4)]


sizes = st.integers(1, 50_000_000)
choices = st.one_of(st.none(), st.integers(1, 200))


@given(sizes, st.integers(1, 256), small, choices, choices)
def test_the_grid_is_what_the_recipe_fixes(
    size: int, rows: int, groups: int, row_groups: int | None, views: int | None
) -> None:
    grid = choose_grid(
        widest_bytes_per_view=size,
        row_group_size=rows,
        shard_row_groups=groups,
        unit_row_groups=row_groups,
        unit_views=views,
    )
    assert grid.unit_row_groups == row_groups or row_groups is None
    assert grid.unit_views == views or views is None


@given(sizes, st.integers(1, 256), small)
def test_a_chosen_grid_is_as_wide_as_its_bounds_allow(size: int, rows: int, groups: int) -> None:
    grid = choose_grid(
        widest_bytes_per_view=size, row_group_size=rows, shard_row_groups=groups, unit_row_groups=None, unit_views=None
    )
    range_bytes = size * rows * grid.unit_row_groups
    assert 1 <= grid.unit_row_groups <= groups
    assert range_bytes <= TARGET_RANGE_BYTES or grid.unit_row_groups == 1
    assert 1 <= grid.unit_views <= 64
    assert range_bytes * grid.unit_views <= MAX_OBJECT_BYTES or grid.unit_views == 1


def test_a_target_set_without_bytes_still_has_a_grid() -> None:
    grid = choose_grid(
        widest_bytes_per_view=0, row_group_size=64, shard_row_groups=16, unit_row_groups=None, unit_views=None
    )
    assert grid == Grid(unit_row_groups=16, unit_views=64)
