"""The batches of a run: which samples and views, whatever the number of workers and wherever it resumes."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd_ray.cache.plan import spans_of
from kd_ray.cache.units import Span
from kd_ray.config.corpus import AllLabels, Labels, LabelsPerClass, NoLabels
from kd_ray.config.views import NAMELESS
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.errors import CacheCorrupt
from kd_ray.models.pixels import to_input
from kd_ray.training.batches import Batch, BatchStream, NoTargets, Part, TargetSource
from kd_ray.training.loading import OPEN_WINDOWS, TargetKey
from kd_ray.training.losses.labels import NO_LABEL
from kd_ray.training.sampling import Sampling
from kd_ray.training.snapshot import full_order, labelled_order
from kd_ray.views import draw, render
from tests.support.tiny_world import POLICY, VIEW_SEED, images_of, mixed, plan_views, stream_settings

NUM_LANES, BATCH_SIZE = 4, 16


@pytest.fixture(scope="module")
def make_stream(tiny_corpus: PackedCorpus, tmp_path_factory: pytest.TempPathFactory):
    spans = plan_views(tiny_corpus, tmp_path_factory.mktemp("none"), num_views=1).spans

    def make(
        *,
        num_views: int | None = 3,
        num_threads: int = 1,
        usable: Labels | None = None,
        targets: TargetSource | None = None,
    ) -> BatchStream:
        return BatchStream(
            stream_settings(num_views=num_views, global_batch_size=BATCH_SIZE, num_threads=num_threads),
            full_order(tiny_corpus, spans, seed=1, num_lanes=NUM_LANES, window=2),
            corpus=tiny_corpus,
            usable_labels=frozenset(tiny_corpus.labelled_ids("train", usable or AllLabels()).tolist()),
            targets={NAMELESS: targets or NoTargets()},
        )

    return make


def take(stream: BatchStream, count: int, *, worker: int = 0, num_workers: int = 1, consumed: int = 0) -> list[Part]:
    """Batches of views of one kind."""
    return [only_part(batch) for batch in take_whole(stream, count, worker, num_workers, consumed)]


def take_whole(
    stream: BatchStream, count: int, worker: int = 0, num_workers: int = 1, consumed: int = 0
) -> list[Batch]:
    batches = stream.batches(worker=worker, num_workers=num_workers, consumed=consumed)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def only_part(batch: Batch) -> Part:
    (part,) = batch.parts
    return part


def seen(batch: Part) -> list[tuple[int, int]]:
    return list(zip(batch.sample_ids_B.tolist(), batch.view_indices_B.tolist(), strict=True))


def assert_equal(found: Part, wanted: Part) -> None:
    assert seen(found) == seen(wanted)
    assert torch.equal(found.inputs_BCHW, wanted.inputs_BCHW)
    assert torch.equal(found.labels.own_B, wanted.labels.own_B)


@pytest.mark.parametrize("num_workers", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_workers(make_stream, num_workers: int) -> None:
    alone = take(make_stream(), 20)
    shares = [take(make_stream(), 20, worker=worker, num_workers=num_workers) for worker in range(num_workers)]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert {len(part.sample_ids_B) for part in parts} == {BATCH_SIZE // num_workers}
        assert Counter(pair for part in parts for pair in seen(part)) == Counter(seen(whole))


@pytest.mark.parametrize(("steps", "num_workers", "worker"), [(1, 1, 0), (7, 1, 0), (11, 2, 1)])
def test_resuming_gives_exactly_the_rest(make_stream, steps: int, num_workers: int, worker: int) -> None:
    undisturbed = take(make_stream(), 14, worker=worker, num_workers=num_workers)
    resumed = take(make_stream(), 14 - steps, worker=worker, num_workers=num_workers, consumed=steps * BATCH_SIZE)
    for found, wanted in zip(resumed, undisturbed[steps:], strict=True):
        assert_equal(found, wanted)


def test_a_run_may_go_on_with_another_number_of_workers(make_stream) -> None:
    alone = take(make_stream(), 12)
    rest = [take(make_stream(), 7, worker=worker, num_workers=2, consumed=5 * BATCH_SIZE) for worker in range(2)]
    for step, whole in enumerate(alone[5:]):
        assert Counter(pair for share in rest for pair in seen(share[step])) == Counter(seen(whole))


def test_the_number_of_threads_changes_nothing(make_stream) -> None:
    for found, wanted in zip(take(make_stream(num_threads=3), 4), take(make_stream(), 4), strict=True):
        assert_equal(found, wanted)


def test_each_epoch_sees_every_sample_once(make_stream, tiny_corpus: PackedCorpus) -> None:
    num_samples = tiny_corpus.num_samples("train")
    steps = 3 * num_samples // BATCH_SIZE
    # without a fixed number of views, the view index is the epoch
    drawn = [pair for batch in take(make_stream(num_views=None), steps) for pair in seen(batch)]
    ids_of = defaultdict(list)
    for sample_id, epoch in drawn:
        ids_of[epoch].append(sample_id)
    everyone = sorted(tiny_corpus.members("train").sample_ids.tolist())
    assert sorted(ids_of[0]) == everyone
    assert sorted(ids_of[1]) == everyone
    assert max(Counter(drawn).values()) == 1


def test_view_index_goes_round(make_stream) -> None:
    fresh = take(make_stream(num_views=None), 20)
    round_ = take(make_stream(num_views=2), 20)
    assert {1, 2} <= {int(view) for batch in fresh for view in batch.view_indices_B}
    for with_epoch, with_view in zip(fresh, round_, strict=True):
        np.testing.assert_array_equal(with_view.sample_ids_B, with_epoch.sample_ids_B)
        np.testing.assert_array_equal(with_view.view_indices_B, with_epoch.view_indices_B % 2)


def test_inputs_are_the_replayed_views(make_stream, tiny_corpus: PackedCorpus) -> None:
    images, size = images_of(tiny_corpus), stream_settings(num_views=3).kinds[0].input
    for batch in take(make_stream(), 9)[::4]:
        expected = []
        for sample_id, view_index in seen(batch):
            image = images[sample_id]
            params = draw(
                POLICY, seed=VIEW_SEED, sample_id=sample_id, view_index=view_index, image_size_px=image.shape[:2]
            )
            expected.append(render(image, params, size_px=size.size_px, interpolation="bicubic"))
        assert torch.equal(batch.inputs_BCHW, to_input(np.stack(expected), size))


def labels_by_id(corpus: PackedCorpus) -> dict[int, int]:
    members = corpus.members("train")
    return dict(zip(members.sample_ids.tolist(), members.labels.tolist(), strict=True))


def shown(batches: list[Part]) -> dict[int, int]:
    return {
        sample_id: int(label)
        for batch in batches
        for sample_id, label in zip(batch.sample_ids_B.tolist(), batch.labels.own_B, strict=True)
    }


@pytest.mark.parametrize("usable", [AllLabels(), LabelsPerClass(kind="per_class", count=5), NoLabels(kind="none")])
def test_only_usable_labels_are_shown(make_stream, tiny_corpus: PackedCorpus, usable) -> None:
    allowed = set(tiny_corpus.labelled_ids("train", usable).tolist())
    true = labels_by_id(tiny_corpus)
    found = shown(take(make_stream(usable=usable), 9))
    assert len(found) > tiny_corpus.num_samples("train") * 0.9
    assert found == {sample_id: true[sample_id] if sample_id in allowed else NO_LABEL for sample_id in found}


def test_a_labelled_order_holds_the_labelled_samples_alone(tiny_corpus: PackedCorpus) -> None:
    labels = LabelsPerClass(kind="per_class", count=4)
    order = labelled_order(tiny_corpus, labels, seed=0, num_lanes=1, window=None)
    allowed = tiny_corpus.labelled_ids("train", labels).tolist()
    stream = BatchStream(
        stream_settings(num_views=None, global_batch_size=4),
        order,
        corpus=tiny_corpus,
        usable_labels=frozenset(allowed),
        targets={NAMELESS: NoTargets()},
    )
    batches = take(stream, 6)
    assert order.num_samples == 12
    assert shown(batches) == {sample_id: labels_by_id(tiny_corpus)[sample_id] for sample_id in allowed}
    for epoch in (0, 1):
        ids = [sample_id for batch in batches[3 * epoch : 3 * epoch + 3] for sample_id, _ in seen(batch)]
        assert sorted(ids) == sorted(allowed)


def mixed_stream(corpus: PackedCorpus, **changes: Any) -> BatchStream:
    """Two sources of unlike shares, and samples of unlike weights."""
    corpus = mixed(corpus, ["a", "b"])
    labels = LabelsPerClass(kind="per_class", count=6)
    sampling = Sampling(
        scale_factors={"a": 2.0, "b": 1.0}, weight_mode="inv_frequency", weight_by="label", labels=labels
    )
    spans = spans_of({each.name: len(each.rows_per_group) for each in corpus.shards("train")}, unit_row_groups=1)
    arguments = {"num_lanes": NUM_LANES, "window": 2, "targets": NoTargets(), "num_views": 3} | changes
    return BatchStream(
        stream_settings(num_views=arguments["num_views"], global_batch_size=BATCH_SIZE),
        full_order(
            corpus,
            spans,
            seed=1,
            num_lanes=arguments["num_lanes"],
            window=arguments["window"],
            sampling=sampling,
        ),
        corpus=corpus,
        usable_labels=frozenset(corpus.labelled_ids("train", labels).tolist()),
        targets={NAMELESS: arguments["targets"]},
    )


@pytest.mark.parametrize("num_workers", [2, 4])
def test_mixed_and_weighted_batches_do_not_depend_on_the_number_of_workers(
    tiny_corpus: PackedCorpus, num_workers: int
) -> None:
    alone = take(mixed_stream(tiny_corpus), 20)
    shares = [
        take(mixed_stream(tiny_corpus), 20, worker=worker, num_workers=num_workers) for worker in range(num_workers)
    ]
    for step, whole in enumerate(alone):
        assert Counter(pair for share in shares for pair in seen(share[step])) == Counter(seen(whole))


@pytest.mark.parametrize("steps", [1, 6, 13])
def test_resuming_a_mixed_and_weighted_run_gives_exactly_the_rest(tiny_corpus: PackedCorpus, steps: int) -> None:
    undisturbed = take(mixed_stream(tiny_corpus), 16)
    resumed = take(mixed_stream(tiny_corpus), 16 - steps, consumed=steps * BATCH_SIZE)
    for found, wanted in zip(resumed, undisturbed[steps:], strict=True):
        assert_equal(found, wanted)


def test_a_sample_that_comes_more_often_shows_another_view_each_time(tiny_corpus: PackedCorpus) -> None:
    fresh = take(mixed_stream(tiny_corpus, num_views=None), 40)
    pairs = [pair for batch in fresh for pair in seen(batch)]
    assert max(Counter(pairs).values()) == 1
    counts = Counter(sample_id for sample_id, _ in pairs)
    assert max(counts.values()) > 3 * min(counts.values())
    for with_count, with_view in zip(fresh, take(mixed_stream(tiny_corpus, num_views=2), 40), strict=True):
        np.testing.assert_array_equal(with_view.sample_ids_B, with_count.sample_ids_B)
        np.testing.assert_array_equal(with_view.view_indices_B, with_count.view_indices_B % 2)


class Loads(NoTargets):
    """What was loaded, in this order."""

    def __init__(self) -> None:
        self.loads: list[tuple[Span, int, Rows]] = []

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, NDArray[Any]]:
        self.loads.append((span, view_index, rows))
        return {}


def test_a_window_reads_images_once_and_targets_once_per_view(tiny_corpus: PackedCorpus) -> None:
    targets = Loads()
    # one lane, whose window holds the 8 row groups of a source twice
    take(mixed_stream(tiny_corpus, num_lanes=1, window=16, targets=targets, num_views=2), 8)
    by_rows: dict[int, list[tuple[Span, int]]] = defaultdict(list)
    for span, view_index, rows in targets.loads:
        by_rows[id(rows)].append((span, view_index))
    assert all(len({span for span, _ in loads}) == 1 for loads in by_rows.values())
    assert all(sorted(view for _, view in loads) in ([0], [1], [0, 1]) for loads in by_rows.values())
    assert any(len(loads) == 2 for loads in by_rows.values())
    # once for the window that is drawn from, once for the next one
    assert max(Counter(loads[0][0] for loads in by_rows.values()).values()) <= OPEN_WINDOWS


class LostUnit(NoTargets):
    """The second view of any span cannot be read."""

    def load(self, span: Span, view_index: int, rows: Rows) -> Mapping[TargetKey, NDArray[Any]]:
        if view_index == 1:
            raise CacheCorrupt(f"{span.shard}: lost")
        return {}


def test_what_cannot_be_read_stops_the_consumer_where_it_is_due(make_stream) -> None:
    batches = make_stream(targets=LostUnit()).batches(worker=0, num_workers=1, consumed=0)
    try:
        views = {int(view) for batch in islice(batches, 4) for view in only_part(batch).view_indices_B}
        assert views == {0}
        with pytest.raises(CacheCorrupt, match=r"train-\d+: lost"):
            list(islice(batches, 10))
    finally:
        batches.close()
