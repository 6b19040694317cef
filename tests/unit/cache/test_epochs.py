"""The order of a training loop of one's own: whole epochs, whatever the number of workers and the sizes of spans."""

import hashlib
from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from kd_ray.cache.epochs import EpochOrder
from kd_ray.cache.stream import SnapshotSpan
from kd_ray.cache.units import Span

GOLDEN = "6788ea356e2970d2e8e4d5a937a5ef127e85efb91206546eb4d3b435ceccc6c8"

Sample = tuple[int, int]  # span, row

sizes_of_spans = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def make_order(sizes: list[int], **changes: int | bool) -> EpochOrder:
    spans = [
        SnapshotSpan(span=Span(shard="s", group_start=i, group_stop=i + 1), rows=tuple(range(size)))
        for i, size in enumerate(sizes)
    ]
    values = {"seed": 0, "batch_size": 4, "num_lanes": 4, "window": 2, "shuffle": True, "keep_last": False, **changes}
    return EpochOrder(spans=spans, **values)  # type: ignore[arg-type]


@st.composite
def orders(draw: st.DrawFn) -> EpochOrder:
    return make_order(
        draw(sizes_of_spans),
        seed=draw(st.integers(0, 2**31)),
        batch_size=draw(st.integers(1, 12)),
        num_lanes=draw(st.sampled_from([1, 2, 4, 6])),
        window=draw(st.integers(1, 4)),
        shuffle=draw(st.booleans()),
        keep_last=draw(st.booleans()),
    )


def batch(order: EpochOrder, epoch: int, number: int) -> list[Sample]:
    draws = list(islice(order.draws(epoch, number), order.size_of(number)))
    assert {int(window.occurrences[place]) for window, place in draws} <= {epoch}
    return [(int(window.span_indices[place]), int(window.rows[place])) for window, place in draws]


def epoch_of(order: EpochOrder, epoch: int = 0) -> list[list[Sample]]:
    return [batch(order, epoch, number) for number in range(order.num_batches)]


@given(orders(), st.integers(0, 3))
def test_an_epoch_has_each_sample_once_but_for_what_fills_no_batch(order: EpochOrder, epoch: int) -> None:
    batches = epoch_of(order, epoch)
    everyone = {(i, row) for i, each in enumerate(order.spans) for row in each.rows}
    drawn = Counter(sample for each in batches for sample in each)
    assert set(drawn.values()) <= {1}
    assert drawn.keys() <= everyone
    assert len(everyone) - len(drawn) == (0 if order.keep_last else len(everyone) % order.batch_size)
    short = [number for number, each in enumerate(batches) if len(each) < order.batch_size]
    assert short in ([], [order.num_batches - 1])


@given(orders(), st.integers(0, 2), st.data())
def test_a_lane_goes_on_from_any_of_its_batches(order: EpochOrder, epoch: int, data: st.DataObject) -> None:
    batches = epoch_of(order, epoch)
    number = data.draw(st.integers(0, max(order.num_batches - 1, 0)))
    rest = [(int(window.span_indices[place]), int(window.rows[place])) for window, place in order.draws(epoch, number)]
    assert rest == [sample for each in batches[number :: order.num_lanes] for sample in each]


def test_a_window_is_read_by_one_lane_or_by_two_where_it_ends() -> None:
    order = make_order([8] * 32, batch_size=8, num_lanes=4)
    windows = [{(window.span_indices[0], len(window)) for window, _ in order.draws(0, lane)} for lane in range(4)]
    assert sum(map(len, windows)) == 16


def test_epochs_and_seeds_differ_and_the_corpus_stays_in_order_unshuffled() -> None:
    order = make_order([5, 6, 7, 8, 9, 10])
    assert len({str(epoch_of(order, epoch)) for epoch in range(5)}) == 5
    assert epoch_of(order) != epoch_of(make_order([5, 6, 7, 8, 9, 10], seed=1))
    plain = make_order([5, 6, 7], shuffle=False, num_lanes=1, keep_last=True)
    in_order = [(span, row) for span, size in enumerate([5, 6, 7]) for row in range(size)]
    assert [sample for each in epoch_of(plain, 3) for sample in each] == in_order


def test_the_order_never_changes() -> None:
    order = make_order([5, 6, 7, 8, 9, 10], seed=3)
    assert hashlib.sha256(str([epoch_of(order, epoch) for epoch in range(3)]).encode()).hexdigest() == GOLDEN
