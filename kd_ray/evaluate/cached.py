"""What the cache holds of teachers for evaluation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.spec import Spec
from kd_ray.cache.target_set import open_output
from kd_ray.cache.units import Unit
from kd_ray.corpus.packed import CorpusAddress
from kd_ray.evaluate.features import LabelledFeatures, feature_scores
from kd_ray.evaluate.predict import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedOutput:
    """One output of a teacher, in `units` of one split."""

    cache_uri: str
    target_set: Spec
    output: Spec
    units: tuple[Unit, ...]

    def read(self, address: CorpusAddress, *, every: int = 1) -> Predictions:
        """Of view 0 of each sample, with the labels of the corpus; of one row-group run in `every`.

        Raises:
            CacheIncomplete, CacheCorrupt: the cache does not hold them whole.
        """
        output = open_output(self.cache_uri, self.target_set, self.output, create=False)
        spans = sorted({unit.span for unit in self.units}, key=lambda each: (each.shard, each.group_start))[::every]
        units = tuple(unit for unit in self.units if unit.span in set(spans) and unit.view_start == 0)
        pinned = output.collection.pin(units)
        corpus = address.open()
        ids, labels, values = [], [], []
        for span in spans:
            rows = corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=["label"])
            ids.append(rows.sample_ids)
            labels.append(rows.labels.astype(np.int64))
            read = output.read(pinned[span, 0], view_index=0, sample_ids=rows.sample_ids)
            values.append(read.astype(np.float32))
        return Predictions(
            sample_ids=np.concatenate(ids), labels=np.concatenate(labels), logits_NK=np.concatenate(values)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSummaries:
    """A teacher's summaries of training views and of the evaluation view."""

    train: CachedOutput
    test: CachedOutput

    def score(
        self, address: CorpusAddress, *, usable_labels: NDArray[np.uint64], num_reference_images: int
    ) -> dict[str, float]:
        """`feature_scores` of view 0 of the training images against the held-out split.

        Raises:
            CacheIncomplete, CacheCorrupt: the cache does not hold them whole.
        """
        every = one_in(address.open().num_samples("train"), num_reference_images)
        learnt, scored = self.train.read(address, every=every), self.test.read(address)
        return feature_scores(usable(learnt, usable_labels), LabelledFeatures.known(scored.logits_NK, scored.labels))


def usable(found: Predictions, usable_labels: NDArray[np.uint64]) -> LabelledFeatures:
    """Features of the samples whose label may be used, by their sorted ids."""
    may = np.isin(found.sample_ids, usable_labels)
    return LabelledFeatures.known(found.logits_NK[may], found.labels[may])


def one_in(num_images: int, num_wanted: int) -> int:
    """Which share of the images, one in so many, is no more than wanted; the corpus is in random order."""
    return -(-num_images // num_wanted)
