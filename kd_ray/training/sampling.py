"""How often a run draws which sample: shares of the sources, and weights of the samples in each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.mixture import integer_weights
from kd_ray.cache.recurrence import Recurrence, recurrence
from kd_ray.cache.stream import SnapshotSpan, SourceSpans
from kd_ray.cache.words import Ints
from kd_ray.config.corpus import Labels, MixtureCorpus
from kd_ray.config.recipe import Recipe
from kd_ray.config.train import DataWeightBy, DataWeightMode
from kd_ray.corpus.packed import Members, PackedCorpus
from kd_ray.corpus.source import ALONE
from kd_ray.errors import CorpusError, RecipeError
from kd_ray.training.weights import weigh


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How often a run draws which sample: `scale_factors` of the sources by name, in the recipe's order."""

    scale_factors: Mapping[str, float]
    weight_mode: DataWeightMode
    weight_by: DataWeightBy
    labels: Labels


def sampling_of(recipe: Recipe) -> Sampling:
    """How often the recipe wants which sample to be drawn."""
    corpus = recipe.corpus
    if isinstance(corpus, MixtureCorpus):
        scale_factors = {name: source.scale_factor for name, source in corpus.sources.items()}
    else:
        scale_factors = {ALONE: 1.0}
    return Sampling(
        scale_factors=scale_factors,
        weight_mode=recipe.train.data_weight_mode,
        weight_by=recipe.train.data_weight_by,
        labels=recipe.labels,
    )


def pinned_sources(
    corpus: PackedCorpus, pinned: Sequence[SnapshotSpan], *, sampling: Sampling | None, seed: int
) -> tuple[SourceSpans, ...]:
    """The pinned spans by source, with the source's place in the mixture and how often its samples come.

    Raises:
        CorpusError: a source has no training sample, or the corpus holds one that is not named.
        RecipeError: weights by label, but no label may be used.
    """
    if sampling is None:
        return (SourceSpans(name=ALONE, weight=1, spans=tuple(pinned), recurrence=None),)
    shares = _shares(corpus, sampling.scale_factors)
    source_of = {shard.name: shard.source for shard in corpus.shards("train")}
    spans: dict[str, list[SnapshotSpan]] = {name: [] for name in shares}
    for each in pinned:
        spans[source_of[each.span.shard]].append(each)
    drawn = [name for name in shares if spans[name]]
    weights = integer_weights([shares[name] for name in drawn])
    recurrences = _recurrences(corpus, {name: spans[name] for name in drawn}, sampling=sampling, seed=seed)
    return tuple(
        SourceSpans(name=name, weight=weight, spans=tuple(spans[name]), recurrence=recurrences.get(name))
        for name, weight in zip(drawn, weights, strict=True)
    )


def _shares(corpus: PackedCorpus, scale_factors: Mapping[str, float]) -> dict[str, Fraction]:
    """Scale factor times number of training samples, by source."""
    num_samples = dict.fromkeys(scale_factors, 0)
    for shard in corpus.shards("train"):
        if shard.source not in num_samples:
            raise CorpusError(
                f"{corpus.uri}: holds training samples of source {shard.source!r}, which the recipe does not name "
                f"({', '.join(map(repr, scale_factors))}). Name it in corpus.sources, or pack to a new packed_uri."
            )
        num_samples[shard.source] += shard.num_rows
    for name, count in num_samples.items():
        if not count:
            raise CorpusError(
                f"{corpus.uri}: source {name!r} has no training sample to draw. Correct corpus.sources.{name}, take it "
                "out, or change corpus.split."
                if name
                else f"{corpus.uri}: has no training sample. Add images, or change corpus.split."
            )
    # by its shortest decimal form, in which it was written: 0.1 is a tenth
    return {name: Fraction(repr(factor)) * num_samples[name] for name, factor in scale_factors.items()}


def _recurrences(
    corpus: PackedCorpus, spans: Mapping[str, Sequence[SnapshotSpan]], *, sampling: Sampling, seed: int
) -> dict[str, Recurrence]:
    """By source; none where samples weigh the same."""
    if sampling.weight_mode == "none":
        return {}
    members = corpus.members("train")
    labels = _usable_labels(corpus, members, sampling)
    places = group_places(corpus)
    found = {}
    for name, pinned in spans.items():
        rows = np.concatenate([places[each.span.shard][each.span.group_start] + np.array(each.rows) for each in pinned])
        weighting = weigh(sampling.weight_mode, sampling.weight_by, labels=labels[rows], copies=members.copies[rows])
        found[name] = recurrence(weighting.groups, weighting.weights, seed=seed, source=name)
    return found


def _usable_labels(corpus: PackedCorpus, members: Members, sampling: Sampling) -> NDArray[np.int32]:
    """The label of every member, -1 where it may not be used."""
    usable = corpus.labelled_ids("train", sampling.labels)
    if sampling.weight_by == "label" and not len(usable):
        raise RecipeError(
            f"train.data_weight_mode: {sampling.weight_mode} weighs samples by label, but no training image of "
            f"{corpus.uri} has a label that may be used. Give labels, set train.data_weight_by: duplicates, or "
            "train.data_weight_mode: none."
        )
    return np.where(np.isin(members.sample_ids, usable), members.labels, -1).astype(np.int32)


def group_places(corpus: PackedCorpus) -> dict[str, Ints]:
    """By shard: where each of its row groups begins among the split's members, and last where the shard ends."""
    places, start = {}, 0
    for shard in corpus.shards("train"):
        places[shard.name] = start + np.cumsum([0, *shard.rows_per_group], dtype=np.int64)
        start += shard.num_rows
    return places
