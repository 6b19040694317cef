"""Which units a view set consists of, and which of them are missing. Pure: numbers in, units out."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kd_ray.cache.units import Span, Unit

# One GET of 8 to 64 MB reaches most of a link, and above 96 MB s3fs turns an upload into a multipart one, whose
# conditional create is checked only at its end.
TARGET_RANGE_BYTES = 16_000_000
MAX_OBJECT_BYTES = 96_000_000
MAX_CHOSEN_VIEWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How a view set is cut: row groups per span and views per unit."""

    unit_row_groups: int
    unit_views: int


def choose_grid(
    *,
    widest_bytes_per_view: int,
    row_group_size: int,
    shard_row_groups: int,
    unit_row_groups: int | None,
    unit_views: int | None,
) -> Grid:
    """A grid whose ranges are near TARGET_RANGE_BYTES and whose objects stay below MAX_OBJECT_BYTES.

    `widest_bytes_per_view` is that of the widest output of any teacher; what the recipe fixes is kept.
    """
    group_bytes = max(widest_bytes_per_view, 1) * row_group_size
    groups = unit_row_groups or min(max(TARGET_RANGE_BYTES // group_bytes, 1), shard_row_groups)
    views = unit_views or min(max(MAX_OBJECT_BYTES // (group_bytes * groups), 1), MAX_CHOSEN_VIEWS)
    return Grid(unit_row_groups=groups, unit_views=views)


def spans_of(shards: Mapping[str, int], *, unit_row_groups: int) -> list[Span]:
    """The spans of all shards, given each shard's number of row groups; the last of a shard may be shorter."""
    return [
        Span(shard=shard, group_start=start, group_stop=min(start + unit_row_groups, num_groups))
        for shard, num_groups in sorted(shards.items())
        for start in range(0, num_groups, unit_row_groups)
    ]


def wanted_units(spans: Sequence[Span], *, num_views: int, grid: Grid, existing: Iterable[Unit]) -> list[Unit]:
    """The units that cover views [0, num_views) of every span, keeping the blocks that exist already.

    Teachers share the grid, so the blocks of a view set that has grown by steps stay as they were first cut.
    """
    blocks: dict[Span, list[tuple[int, int]]] = defaultdict(list)
    for unit in existing:
        blocks[unit.span].append((unit.view_start, unit.view_stop))
    return [
        Unit(span=span, view_start=start, view_stop=stop)
        for span in spans
        for start, stop in _blocks(num_views, unit_views=grid.unit_views, existing=blocks[span])
    ]


def _blocks(num_views: int, *, unit_views: int, existing: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Blocks that cover [0, num_views): the existing ones, and new ones in the gaps, cut where the grid says.

    Of existing blocks that overlap (two runs that grew a view set at once) the first and longest is taken.
    """
    covered = 0
    for start, stop in sorted(existing, key=lambda block: (block[0], -block[1])):
        if covered <= start < num_views:
            yield from _new_blocks(covered, start, unit_views=unit_views)
            yield start, stop
            covered = stop
    yield from _new_blocks(covered, num_views, unit_views=unit_views)


def _new_blocks(start: int, stop: int, *, unit_views: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min((start // unit_views + 1) * unit_views, stop)
        yield start, end
        start = end


def missing_units(wanted: Sequence[Unit], committed: Iterable[Unit]) -> list[Unit]:
    """Wanted units that no commit names, in their order."""
    have = set(committed)
    return [unit for unit in wanted if unit not in have]
