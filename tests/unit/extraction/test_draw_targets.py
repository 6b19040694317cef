"""Which targets `verify --deep` looks at."""

from collections import Counter

import pytest

from kd_ray.cache.commits import Commit
from kd_ray.extraction.deep import draw_targets
from tests.support.tiny_cache import unit


def commit(view_start: int, view_stop: int, *, num_rows: int) -> Commit:
    return Commit(
        unit=unit(view_start, view_stop), generation=0, attempt="a", num_rows=num_rows, members_digest="", objects={}
    )


COMMITS = (commit(0, 2, num_rows=50), commit(2, 3, num_rows=900))


@pytest.mark.parametrize("count", [1, 64, 600, 2_000])
def test_each_is_drawn_once_and_exists(count: int) -> None:
    drawn = [
        (of.view_start, row, view)
        for of, found in draw_targets(COMMITS, count, key=("k",)).items()
        for row, view in found
    ]
    assert len(drawn) == len(set(drawn)) == min(count, 1_000)
    for start, row, view in drawn:
        assert (0 <= row < 50 and view in (0, 1)) if start == 0 else (0 <= row < 900 and view == 2)


def test_all_are_equally_likely_and_the_key_decides() -> None:
    assert draw_targets(COMMITS, 64, key=("k", 1)) == draw_targets(COMMITS, 64, key=("k", 1))
    assert draw_targets(COMMITS, 64, key=("k", 1)) != draw_targets(COMMITS, 64, key=("k", 2))
    units: Counter[int] = Counter()
    for seed in range(200):
        for of, found in draw_targets(COMMITS, 20, key=("k", seed)).items():
            units[of.view_start] += len(found)
    # a tenth of 4,000 draws: 400, and five deviations of sqrt(4,000 * 0.1 * 0.9) = 19
    assert abs(units[0] - 400) < 95
