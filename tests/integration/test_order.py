"""The order of a run: every sample as often as is due, whatever the workers, the restarts and the sizes of spans."""

import hashlib
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.cache.order import Order, lanes_of
from kd_ray.cache.recurrence import recurrence
from kd_ray.cache.stream import SnapshotSpan, SourceSpans, Window
from kd_ray.cache.units import Span

Sample = tuple[int, int, int, int]  # source, span, row, occurrence


def _source(rows: list[list[int]], *, name: str = "", weight: int = 1, groups: int = 1, seed: int = 0) -> SourceSpans:
    """Spans with these usable rows; more than one group of samples makes weights, later ones heavier."""
    spans = [
        SnapshotSpan(span=Span(shard=name or "s", group_start=i, group_stop=i + 1), rows=tuple(each))
        for i, each in enumerate(rows)
    ]
    membership = np.arange(sum(map(len, rows))) % groups
    weighted = recurrence(membership, [1.0 + 1.7 * i for i in range(groups)], seed=seed, source=name)
    return SourceSpans(name=name, weight=weight, spans=spans, recurrence=weighted if groups > 1 else None)


def _order(rows: list[list[int]], *, seed: int = 0, num_lanes: int = 4, window: int = 2) -> Order:
    return Order(sources=[_source(rows)], seed=seed, num_lanes=num_lanes, window=window)


def _draws(order: Order, lane: int, *, skip: int = 0) -> Iterator[tuple[Window, Sample]]:
    for window, place in order.draws(lane, skip=skip):
        span, row, occurrence = (int(each[place]) for each in (window.span_indices, window.rows, window.occurrences))
        yield window, (window.source, span, row, occurrence)


def _samples(order: Order, lane: int, *, skip: int = 0) -> Iterator[Sample]:
    return (sample for _, sample in _draws(order, lane, skip=skip))


# spans of unlike lengths whose rows are some of the positions, as under few labels
rows_of_spans = st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=9).map(sorted), min_size=1, max_size=9)
lanes = st.sampled_from([1, 2, 4, 6])
windows = st.integers(1, 4)
seeds = st.integers(0, 2**31)
sources = st.tuples(rows_of_spans, st.integers(1, 4), st.sampled_from([1, 1, 2, 3]))


@st.composite
def orders(draw: st.DrawFn, *, max_sources: int = 3, num_lanes: int | None = None) -> Order:
    """One source as in a corpus that is no mixture, or several; with weights and without."""
    drawn = draw(st.lists(sources, min_size=1, max_size=max_sources))
    names = [""] if len(drawn) == 1 else [f"source-{i}" for i in range(len(drawn))]
    seed = draw(seeds)
    return Order(
        sources=[
            _source(rows, name=name, weight=weight, groups=groups, seed=seed)
            for name, (rows, weight, groups) in zip(names, drawn, strict=True)
        ],
        seed=seed,
        num_lanes=num_lanes or draw(lanes),
        window=draw(windows),
    )


NUM_TURNS = 3


def _due(order: Order) -> list[dict[tuple[int, int], int]]:
    """By source: how often each (span, row) has to come in the first turns."""
    found = []
    for source in order.sources:
        samples = [(i, row) for i, each in enumerate(source.spans) for row in each.rows]
        counts = [NUM_TURNS] * len(samples) if source.recurrence is None else source.recurrence.before(NUM_TURNS)
        found.append(dict(zip(samples, map(int, counts), strict=True)))
    return found


def _first_turns(order: Order, lane: int) -> list[Sample]:
    """The lane's samples of the first turns: of each source, those up to the first window that has one of a later."""
    due, found = _due(order), list[Sample]()
    last: dict[int, Window] = {}
    ended: set[int] = set()
    for window, (source, span, row, occurrence) in _draws(order, lane):
        if last.get(source, window) is not window:
            ended.add(source)
        if occurrence < due[source][span, row]:
            found.append((source, span, row, occurrence))
        else:
            last.setdefault(source, window)
        if len(ended) == len(order.sources):
            return found
    raise AssertionError("the stream ended")


@settings(max_examples=60, deadline=None)
@given(orders())
def test_over_all_lanes_every_sample_comes_exactly_as_often_as_is_due(order: Order) -> None:
    found = Counter(sample for lane in range(order.num_lanes) for sample in _first_turns(order, lane))
    expected = {
        (source, span, row, occurrence)
        for source, due in enumerate(_due(order))
        for (span, row), count in due.items()
        for occurrence in range(count)
    }
    assert found == Counter(expected)


@settings(max_examples=60, deadline=None)
@given(orders())
def test_resuming_after_any_number_of_samples_goes_on_where_it_was(order: Order) -> None:
    whole = list(islice(_samples(order, order.num_lanes - 1), 60))
    for skip in range(0, len(whole), 3):
        assert list(islice(_samples(order, order.num_lanes - 1, skip=skip), len(whole) - skip)) == whole[skip:]


@settings(max_examples=20, deadline=None)
@given(orders(), st.integers(0, 20_000))
def test_resuming_late_goes_on_where_it_was(order: Order, skip: int) -> None:
    wanted = list(islice(_samples(order, 0), skip, skip + 30))
    assert list(islice(_samples(order, 0, skip=skip), 30)) == wanted


def _batch(order: Order, *, num_workers: int, per_lane: int, skip: int) -> Counter[Sample]:
    return Counter(
        sample
        for worker in range(num_workers)
        for lane in lanes_of(worker, num_workers=num_workers, num_lanes=order.num_lanes)
        for sample in islice(_samples(order, lane, skip=skip), per_lane)
    )


@settings(max_examples=30, deadline=None)
@given(orders(num_lanes=8), st.integers(1, 5), st.integers(0, 40))
def test_a_global_batch_does_not_depend_on_the_number_of_workers(order: Order, per_lane: int, skip: int) -> None:
    batches = [_batch(order, num_workers=workers, per_lane=per_lane, skip=skip) for workers in (1, 2, 4, 8)]
    assert batches == batches[:1] * 4
    assert batches[0].total() == 8 * per_lane


@settings(max_examples=30, deadline=None)
@given(orders(num_lanes=6), st.integers(1, 5), st.integers(0, 40))
def test_in_any_global_batch_each_source_is_within_two_of_its_share(order: Order, per_lane: int, skip: int) -> None:
    batch = _batch(order, num_workers=2, per_lane=per_lane, skip=skip)
    weights = [source.weight for source in order.sources]
    for number, weight in enumerate(weights):
        count = sum(times for sample, times in batch.items() if sample[0] == number)
        assert abs(count - 6 * per_lane * weight / sum(weights)) < 2


@settings(max_examples=30, deadline=None)
@given(orders(max_sources=2, num_lanes=4), rows_of_spans, st.integers(1, 3))
def test_another_source_does_not_change_the_order_within_a_source(
    order: Order, rows: list[list[int]], weight: int
) -> None:
    more = replace(order, sources=[_source(rows, name="another", weight=weight), *order.sources])
    for number in range(len(order.sources)):
        alone = [sample[1:] for sample in islice(_samples(order, 1), 200) if sample[0] == number]
        among = [sample[1:] for sample in islice(_samples(more, 1), 200) if sample[0] == number + 1]
        common = min(len(alone), len(among))
        assert common > 10
        assert among[:common] == alone[:common]


def test_an_order_that_was_pickled_draws_the_same() -> None:
    order = Order(
        sources=[_source([[0, 1, 2], [4]], name="a", weight=2, groups=2), _source([[3, 4]], name="b")],
        seed=4,
        num_lanes=2,
        window=1,
    )
    copy = pickle.loads(pickle.dumps(order))
    assert list(islice(_samples(copy, 0, skip=9), 40)) == list(islice(_samples(order, 0, skip=9), 40))


def test_every_lane_has_one_worker() -> None:
    for num_workers in (1, 2, 4, 8):
        owned = [lane for w in range(num_workers) for lane in lanes_of(w, num_workers=num_workers, num_lanes=8)]
        assert sorted(owned) == list(range(8))


def test_seeds_and_turns_give_other_orders() -> None:
    rows = [list(range(8))] * 6
    one_lane = {"num_lanes": 1, "window": 6}
    first, second = (list(islice(_samples(_order(rows, seed=seed, **one_lane), 0), 96)) for seed in (0, 1))
    assert first[:48] != second[:48]
    assert [sample[:3] for sample in first[:48]] != [sample[:3] for sample in first[48:]]


def test_a_window_mixes_its_spans() -> None:
    order = _order([list(range(16))] * 4, num_lanes=1, window=4)
    window, _ = next(order.draws(0, skip=0))
    assert len(set(window.span_indices[:16].tolist())) == 4


def test_there_are_as_many_samples_as_all_spans_of_all_sources_have_rows() -> None:
    order = _order([[0, 1], [5], [2, 3, 4]])
    assert order.num_samples == 6
    assert replace(order, sources=[*order.sources, _source([[7, 8]], name="b", groups=2)]).num_samples == 8


def test_the_order_of_one_source_is_the_same_forever() -> None:
    """A resumed run of any later version must draw what this one would have: if this fails, the code is wrong."""
    order = _order([[0, 1, 2], [0, 2], [1, 3, 4]], seed=11, num_lanes=2, window=2)
    assert [sample[1:] for sample in islice(_samples(order, 0), 12)] == GOLDEN_LANE_0
    assert [sample[1:] for sample in islice(_samples(order, 1), 12)] == GOLDEN_LANE_1


GOLDEN_LANE_0 = [
    (2, 1, 0),
    (2, 4, 0),
    (1, 2, 0),
    (1, 0, 0),
    (2, 3, 0),
    (1, 2, 2),
    (1, 0, 2),
    (2, 1, 1),
    (2, 3, 1),
    (2, 4, 1),
    (2, 1, 2),
    (2, 1, 3),
]
GOLDEN_LANE_1 = [
    (0, 2, 0),
    (0, 0, 0),
    (0, 2, 1),
    (0, 1, 0),
    (0, 1, 1),
    (0, 0, 1),
    (1, 2, 1),
    (0, 1, 2),
    (1, 0, 1),
    (0, 2, 2),
    (0, 0, 2),
    (0, 0, 3),
]


def _digest(order: Order, *, skip: int) -> str:
    digest = hashlib.sha256()
    for lane in range(order.num_lanes):
        digest.update(repr([sample[1:] for sample in islice(_samples(order, lane, skip=skip), 300)]).encode())
    return digest.hexdigest()[:32]


@pytest.mark.parametrize(
    ("num_lanes", "window", "skip", "digest"),
    [
        (1, 1, 0, "7c4d501cd4d5d3a775a6669bcc41710b"),
        (1, 1, 500, "7920944529bf38bdc06102f2c8c666ce"),
        (4, 3, 0, "d3b7bffe9cd7598d7f1590ce251a6376"),
        (4, 3, 500, "cfe74f3c75b1fae571df23cfbeef6448"),
        (16, 2, 0, "eb052db68a1c2720b196a2608cc0a6d4"),
        (16, 2, 500, "48bc6664c7ad931d8edf44eb3428a8f4"),
    ],
)
def test_long_orders_of_one_source_are_the_same_forever(num_lanes: int, window: int, skip: int, digest: str) -> None:
    """Taken from the first version, which knew one source only."""
    rows = [[row for row in range(8 + i % 4) if (row * i) % 5 != 3] for i in range(13)]
    order = _order(rows, seed=7, num_lanes=num_lanes, window=window)
    assert _digest(order, skip=skip) == digest


def test_the_order_of_several_weighted_sources_is_the_same_forever() -> None:
    rows = [[row for row in range(8 + i % 4) if (row * i) % 5 != 3] for i in range(13)]
    weighted = _source(rows, name="photos", weight=3, groups=3, seed=7)
    order = Order(sources=[weighted, _source(rows[:4], name="sketches", weight=2)], seed=7, num_lanes=4, window=3)
    assert (_digest(order, skip=0), _digest(order, skip=500)) == (
        "dbc7accdf3f56d10c9d52f8fc9b9d959",
        "57b0249a86150d19a918d46049aa4661",
    )
