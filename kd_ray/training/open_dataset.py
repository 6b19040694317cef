"""From a chosen part of a cache to a dataset, once all that it will read has been found."""

import torch

from kd_ray.cache.choice import Chosen
from kd_ray.cache.plan import spans_of, wanted_units
from kd_ray.cache.stream import SnapshotSpan
from kd_ray.config.dataset import DatasetSettings
from kd_ray.config.views import NAMELESS
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.errors import CacheIncomplete, CorpusError, FingerprintMismatch
from kd_ray.storage import redacted
from kd_ray.training.batches import StreamKind
from kd_ray.training.dataset import CacheDataset
from kd_ray.training.sources import CachedSource
from kd_ray.views import policy_of


def open_dataset(cache_uri: str, chosen: Chosen, *, corpus: PackedCorpus, settings: DatasetSettings) -> CacheDataset:
    """The dataset of the chosen outputs, once all units that it reads have been found.

    Raises:
        RecipeError: as `CacheDataset.begin`.
        CorpusError: the corpus has no sample of the split.
        FingerprintMismatch: its masks are others, or the views are of a policy that this version does not know.
        CacheIncomplete: units that would be read are not committed.
    """
    store = chosen.views
    identity = store.spec.identity
    split = identity["split"]
    policy, kept = policy_of(identity, name=store.spec.name.removesuffix(f"-{split}"))
    if policy.reads_masks and corpus.masks_id(split) != identity["masks"]:
        raise FingerprintMismatch(
            f"{redacted(corpus.uri)}: its masks are not those by which the views {store.spec.folder} were drawn. Give "
            "the corpus with the table of overrides that they were drawn with: open(uri, corpus=open_corpus(…))."
        )
    groups = {shard.name: shard.rows_per_group for shard in corpus.shards(split)}
    if not groups:
        raise CorpusError(f"{redacted(corpus.uri)}: has no sample of split {split!r}, whose views were asked for.")
    existing = store.units()
    stored = max((unit.view_stop for unit in existing), default=0)
    num_views = settings.num_views or stored
    if not 0 < num_views <= stored:
        raise CacheIncomplete(
            f"{redacted(cache_uri)}/views/{store.spec.folder}: {num_views or 1} views of each sample are wanted, "
            f"{stored} are stored. Raise views.count and run the extract stage, or give fewer num_views."
        )
    spans = spans_of({name: len(rows) for name, rows in groups.items()}, unit_row_groups=store.grid.unit_row_groups)
    source = CachedSource(
        cache_uri=cache_uri,
        view_set=store.spec,
        outputs={key: (output.target_set, output.spec) for key, output in chosen.outputs.items()},
        units=tuple(wanted_units(spans, num_views=num_views, grid=store.grid, existing=existing)),
        policy=policy,
        verify_one_in=settings.verify_one_in,
        kept=kept,
    )
    source.open(torch.device("cpu"))  # what is missing is told here, not by a worker process
    return CacheDataset(
        source,
        corpus=corpus,
        spans=tuple(
            SnapshotSpan(span=each, rows=tuple(range(sum(groups[each.shard][each.group_start : each.group_stop]))))
            for each in spans
        ),
        kind=StreamKind(
            name=NAMELESS, policy=policy, num_crops=1, num_views=num_views, input=settings.input, kept=kept
        ),
        view_seed=identity["seed"],
        settings=settings,
        target_shapes={key: output.shape for key, output in chosen.outputs.items()},
        has_several_teachers=chosen.has_several_teachers,
    )
