"""The order of a run: every sample once an epoch, whatever the workers, the restarts and the sizes of spans."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.cache.order import Order, SnapshotSpan, Window, lanes_of
from kd_ray.cache.units import Span

Sample = tuple[int, int, int]  # span, row, epoch


def _order(rows: list[list[int]], *, seed: int = 0, num_lanes: int = 4, window: int = 2) -> Order:
    spans = [
        SnapshotSpan(span=Span(shard="s", group_start=i, group_stop=i + 1), rows=tuple(each))
        for i, each in enumerate(rows)
    ]
    return Order(spans=spans, seed=seed, num_lanes=num_lanes, window=window)


def _samples(order: Order, lane: int, *, skip: int = 0) -> Iterator[Sample]:
    for window, skipped in order.windows(lane, skip=skip):
        yield from list(_triples(window))[skipped:]


def _triples(window: Window) -> Iterator[Sample]:
    return zip(window.span_indices.tolist(), window.rows.tolist(), window.epochs.tolist(), strict=True)


# spans of unlike lengths whose rows are some of the positions, as under few labels
rows_of_spans = st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=9).map(sorted), min_size=1, max_size=9)
lanes = st.sampled_from([1, 2, 4, 6])
windows = st.integers(1, 4)
seeds = st.integers(0, 2**31)
NUM_EPOCHS = 3


def _up_to_epoch(order: Order, lane: int, num_epochs: int) -> list[Sample]:
    """All samples of the lane's windows, up to the first window that lies wholly in later epochs."""
    found: list[Sample] = []
    for window, _ in order.windows(lane, skip=0):
        if window.epochs.min() >= num_epochs:
            return found
        found += _triples(window)
    raise AssertionError("the stream ended")


@settings(max_examples=60, deadline=None)
@given(rows_of_spans, seeds, lanes, windows)
def test_every_sample_comes_exactly_once_an_epoch_over_all_lanes(
    rows: list[list[int]], seed: int, num_lanes: int, window: int
) -> None:
    order = _order(rows, seed=seed, num_lanes=num_lanes, window=window)
    found = Counter(
        sample
        for lane in range(num_lanes)
        for sample in _up_to_epoch(order, lane, NUM_EPOCHS)
        if sample[2] < NUM_EPOCHS
    )
    expected = {(i, row, epoch) for i, each in enumerate(rows) for row in each for epoch in range(NUM_EPOCHS)}
    assert found == Counter(expected)


@settings(max_examples=40, deadline=None)
@given(rows_of_spans, seeds, lanes, windows)
def test_resuming_after_any_number_of_samples_goes_on_where_it_was(
    rows: list[list[int]], seed: int, num_lanes: int, window: int
) -> None:
    order = _order(rows, seed=seed, num_lanes=num_lanes, window=window)
    whole = list(islice(_samples(order, num_lanes - 1), 80))
    for skip in range(len(whole)):
        assert list(islice(_samples(order, num_lanes - 1, skip=skip), len(whole) - skip)) == whole[skip:]


def _batch(order: Order, *, num_workers: int, per_lane: int, skip: int) -> Counter[Sample]:
    return Counter(
        sample
        for worker in range(num_workers)
        for lane in lanes_of(worker, num_workers=num_workers, num_lanes=order.num_lanes)
        for sample in islice(_samples(order, lane, skip=skip), per_lane)
    )


@settings(max_examples=30, deadline=None)
@given(rows_of_spans, seeds, windows, st.integers(1, 5), st.integers(0, 40))
def test_a_global_batch_does_not_depend_on_the_number_of_workers(
    rows: list[list[int]], seed: int, window: int, per_lane: int, skip: int
) -> None:
    order = _order(rows, seed=seed, num_lanes=6, window=window)
    batches = [_batch(order, num_workers=workers, per_lane=per_lane, skip=skip) for workers in (1, 2, 3, 6)]
    assert batches == batches[:1] * 4
    assert batches[0].total() == 6 * per_lane


def test_every_lane_has_one_worker() -> None:
    for num_workers in (1, 2, 4, 8):
        owned = [lane for w in range(num_workers) for lane in lanes_of(w, num_workers=num_workers, num_lanes=8)]
        assert sorted(owned) == list(range(8))


def test_seeds_and_epochs_give_other_orders() -> None:
    rows = [list(range(8))] * 6
    one_lane = {"num_lanes": 1, "window": 6}
    first, second = (list(islice(_samples(_order(rows, seed=seed, **one_lane), 0), 96)) for seed in (0, 1))
    assert first[:48] != second[:48]
    assert [sample[:2] for sample in first[:48]] != [sample[:2] for sample in first[48:]]


def test_a_window_mixes_its_spans() -> None:
    order = _order([list(range(16))] * 4, num_lanes=1, window=4)
    window, _ = next(order.windows(0, skip=0))
    assert len(set(window.span_indices[:16].tolist())) == 4


def test_an_epoch_has_as_many_samples_as_all_spans_have_rows() -> None:
    assert _order([[0, 1], [5], [2, 3, 4]]).num_samples == 6


def test_the_order_is_the_same_forever() -> None:
    """A resumed run of any later version must draw what this one would have: if this fails, the code is wrong."""
    order = _order([[0, 1, 2], [0, 2], [1, 3, 4]], seed=11, num_lanes=2, window=2)
    assert list(islice(_samples(order, 0), 12)) == GOLDEN_LANE_0
    assert list(islice(_samples(order, 1), 12)) == GOLDEN_LANE_1


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
