"""Which rows of a corpus a run trains on, pinned when it is planned."""

import numpy as np

from kd_ray.cache.order import Order, SnapshotSpan
from kd_ray.cache.plan import spans_of
from kd_ray.cache.units import Span
from kd_ray.config.corpus import Labels
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CorpusError

MAX_WINDOW = 64  # row groups whose images are held in memory at once


def full_order(corpus: PackedCorpus, spans: list[Span], *, seed: int, num_lanes: int, window: int) -> Order:
    """Every row of the given spans of the training split."""
    groups = {shard.name: shard.rows_per_group for shard in corpus.shards("train")}
    pinned = tuple(
        SnapshotSpan(span=span, rows=tuple(range(sum(groups[span.shard][span.group_start : span.group_stop]))))
        for span in spans
    )
    return Order(spans=pinned, seed=seed, num_lanes=num_lanes, window=window)


def labelled_order(corpus: PackedCorpus, labels: Labels, *, seed: int, num_lanes: int, window: int | None) -> Order:
    """The rows of the training split whose label may be used; `window` None shuffles as many as memory should hold.

    Raises:
        CorpusError: there is none.
    """
    usable = corpus.labelled_ids("train", labels)
    shards = {shard.name: len(shard.rows_per_group) for shard in corpus.shards("train")}
    pinned = []
    for span in spans_of(shards, unit_row_groups=1):
        rows = corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=())
        chosen = np.flatnonzero(np.isin(rows.sample_ids, usable))
        if len(chosen):
            pinned.append(SnapshotSpan(span=span, rows=tuple(chosen.tolist())))
    if not pinned:
        raise CorpusError(
            f"{corpus.uri}: no training image has a label that may be used. Give labels, correct the recipe's labels "
            "section, or train without cross_entropy, finetune and train.reference."
        )
    return Order(spans=tuple(pinned), seed=seed, num_lanes=num_lanes, window=window or min(len(pinned), MAX_WINDOW))
