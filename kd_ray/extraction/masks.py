"""The masks that a view policy needs, looked for before any teacher runs."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kd_ray.cache.units import Span
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import NUM_READERS, PackedCorpus
from kd_ray.errors import CorpusError
from kd_ray.storage import redacted


def refuse_without_masks(corpus: PackedCorpus, spans: Iterable[Span], *, policy: Policy) -> None:
    """Read the masks of `spans` where the policy places crops by them, and see that every sample has one.

    Raises:
        CorpusError: one has none.
        ShardCorrupt: a shard is missing, or a checksum does not match.
    """
    if not policy.reads_masks:
        return
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = pool.map(
            lambda span: corpus.ids_without_mask(span.shard, span.group_start, span.group_stop), sorted(spans)
        )
        without = np.concatenate([np.empty(0, np.uint64), *found])
    if len(without):
        raise CorpusError(
            f"{redacted(corpus.uri)}: {len(without):,} samples have no mask, {int(without[0]):016x} among them, and "
            f"cat_max_ratio of policy {policy.name} places crops by masks. Give them masks (corpus.overrides_uri does "
            "that without packing again), leave them out, or set cat_max_ratio: null."
        )
