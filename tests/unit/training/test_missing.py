"""Units that were not committed when a run was planned: which, and as a record."""

import json
from pathlib import Path

import pytest

from kd_ray.cache.units import Span, Unit
from kd_ray.storage import open_storage
from kd_ray.training.missing import Missing, find_missing
from tests.support.tiny_cache import unit
from tests.support.whole_cache import UNITS, WholeCache, write_cache

SUMMARY, LOGITS = ("teacher", "summary"), ("teacher", "logits")


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    return write_cache(str(tmp_path))


def found(cache: WholeCache, *, wanted: tuple[Unit, ...] = UNITS) -> Missing:
    outputs = {("teacher", name): (each.target_set, each.spec) for name, each in cache.outputs.items()}
    return find_missing(cache.uri, cache.views.spec, outputs, wanted=wanted)


def test_of_a_whole_cache_nothing_is_missing(cache: WholeCache) -> None:
    assert found(cache) == Missing()


def test_a_lost_commit_is_missing_of_its_output_alone(cache: WholeCache) -> None:
    lost = UNITS[1]
    open_storage(cache.uri).remove(f"{cache.path_of('logits')}/commits/{lost.id}.0.json")
    missing = found(cache)
    assert missing == Missing(outputs={LOGITS: frozenset({lost})})
    assert missing.of(SUMMARY) == frozenset()
    assert (missing.units, missing.spans) == ({lost}, {lost.span})


def test_what_was_never_begun_is_missing_whole(cache: WholeCache) -> None:
    later = unit(4, 6)
    missing = found(cache, wanted=(*UNITS, later))
    assert missing == Missing(
        views=frozenset({later}), outputs={SUMMARY: frozenset({later}), LOGITS: frozenset({later})}
    )
    open_storage(cache.uri).remove(cache.path_of("summary"))
    assert found(cache).of(SUMMARY) == set(UNITS)


def test_a_record_gives_it_back() -> None:
    other = Unit(span=Span(shard="other", group_start=3, group_stop=5), view_start=1, view_stop=2)
    missing = Missing(views=frozenset({other}), outputs={LOGITS: frozenset({*UNITS, other})})
    assert Missing.from_json(json.loads(json.dumps(missing.to_json()))) == missing
