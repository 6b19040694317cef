"""Which rows of a corpus a run trains on, pinned when it is planned."""

from collections.abc import Sequence

import numpy as np

from kd_ray.cache.order import Order
from kd_ray.cache.plan import spans_of
from kd_ray.cache.stream import SnapshotSpan
from kd_ray.cache.units import Span
from kd_ray.config.corpus import Labels
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CorpusError
from kd_ray.training.sampling import Sampling, group_places, pinned_sources

MAX_WINDOW = 64  # row groups whose images are held in memory at once


def full_order(
    corpus: PackedCorpus,
    spans: Sequence[Span],
    *,
    seed: int,
    num_lanes: int,
    window: int,
    sampling: Sampling | None = None,
) -> Order:
    """Every row of the given spans of the training split; `sampling` None takes the corpus as one source, unweighted.

    Raises:
        CorpusError: a source has no training sample, or the corpus holds one that is not named.
        RecipeError: weights by label, but no label may be used.
    """
    groups = {shard.name: shard.rows_per_group for shard in corpus.shards("train")}
    pinned = [
        SnapshotSpan(span=span, rows=tuple(range(sum(groups[span.shard][span.group_start : span.group_stop]))))
        for span in spans
    ]
    sources = pinned_sources(corpus, pinned, sampling=sampling, seed=seed)
    return Order(sources=sources, seed=seed, num_lanes=num_lanes, window=window)


def labelled_order(
    corpus: PackedCorpus,
    labels: Labels,
    *,
    seed: int,
    num_lanes: int,
    window: int | None,
    sampling: Sampling | None = None,
) -> Order:
    """The rows of the training split whose label may be used; `window` None shuffles as many as memory should hold.

    Sources keep the shares that they have with all their samples; one without a usable label is left out.

    Raises:
        CorpusError: there is none, or as `full_order`.
    """
    members = corpus.members("train")
    is_usable = np.isin(members.sample_ids, corpus.labelled_ids("train", labels))
    places = group_places(corpus)
    pinned = []
    for span in spans_of({name: len(starts) - 1 for name, starts in places.items()}, unit_row_groups=1):
        chosen = np.flatnonzero(is_usable[places[span.shard][span.group_start] : places[span.shard][span.group_stop]])
        if len(chosen):
            pinned.append(SnapshotSpan(span=span, rows=tuple(chosen.tolist())))
    if not pinned:
        raise CorpusError(
            f"{corpus.uri}: no training image has a label that may be used. Give labels, correct the recipe's labels "
            "section, or train without cross_entropy, finetune and train.reference."
        )
    sources = pinned_sources(corpus, pinned, sampling=sampling, seed=seed)
    longest = max(len(source.spans) for source in sources)
    window = window or max(min(longest, MAX_WINDOW // len(sources)), 1)
    return Order(sources=sources, seed=seed, num_lanes=num_lanes, window=window)
