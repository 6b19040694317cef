"""Shares of sources and weights of samples, from a packed corpus to an order."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from kd_ray.cache.order import Order
from kd_ray.cache.plan import spans_of
from kd_ray.config.corpus import AllLabels, Labels, LabelsPerClass, NoLabels
from kd_ray.config.load import load_recipe
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.corpus.source import ALONE
from kd_ray.errors import CorpusError, RecipeError
from kd_ray.training.sampling import Sampling, sampling_of
from kd_ray.training.snapshot import full_order, labelled_order
from tests.support.recipes import VALID, write
from tests.support.tiny_world import mixed

MIXTURE = (
    "corpus: {kind: mixture, packed_uri: p, sources: {b: {kind: folder, uri: x, scale_factor: 0.5}, "
    "a: {kind: folder, uri: y}}}"
)


def sampling(**changes: object) -> Sampling:
    plain = Sampling(scale_factors={ALONE: 1.0}, weight_mode="none", weight_by="label", labels=AllLabels())
    return replace(plain, **changes)


def order_of(corpus: PackedCorpus, how: Sampling | None, *, num_lanes: int = 1) -> Order:
    shards = {shard.name: len(shard.rows_per_group) for shard in corpus.shards("train")}
    spans = spans_of(shards, unit_row_groups=1)
    return full_order(corpus, spans, seed=1, num_lanes=num_lanes, window=1, sampling=how)


def drawn_ids(order: Order, corpus: PackedCorpus, count: int) -> list[int]:
    found = []
    for window, place in islice(order.draws(0, skip=0), count):
        span = order.sources[window.source].spans[window.span_indices[place]].span
        rows = corpus.read_rows(span.shard, span.group_start, span.group_stop, columns=())
        found.append(int(rows.sample_ids[window.rows[place]]))
    return found


def rows_by_source(corpus: PackedCorpus) -> Counter[str]:
    found: Counter[str] = Counter()
    for shard in corpus.shards("train"):
        found[shard.source] += shard.num_rows
    return found


def test_a_recipe_names_its_sources_in_their_order_with_their_scale_factors(tmp_path: Path) -> None:
    text = VALID.replace('corpus: {kind: folder, uri: images, packed_uri: "${out}/corpus"}', MIXTURE)
    found = sampling_of(load_recipe(write(tmp_path, text), ["train.data_weight_mode=inv_frequency"]))
    assert list(found.scale_factors.items()) == [("b", 0.5), ("a", 1.0)]
    assert (found.weight_mode, found.weight_by) == ("inv_frequency", "label")


def test_a_recipe_of_one_source_gives_it_no_name(tmp_path: Path) -> None:
    assert sampling_of(load_recipe(write(tmp_path))) == sampling()


def test_a_corpus_of_one_source_is_drawn_as_if_nothing_were_said(tiny_corpus: PackedCorpus) -> None:
    assert order_of(tiny_corpus, sampling()) == order_of(tiny_corpus, None)


def test_shares_are_scale_factor_times_samples(tiny_corpus: PackedCorpus) -> None:
    corpus = mixed(tiny_corpus, ["a", "b", "a", "b"])
    order = order_of(corpus, sampling(scale_factors={"b": 0.1, "a": 3.0}))
    rows = rows_by_source(corpus)
    assert [source.name for source in order.sources] == ["b", "a"]
    assert order.sources[0].weight * 30 * rows["a"] == order.sources[1].weight * rows["b"]
    assert {each.span.shard for each in order.sources[0].spans} == {
        shard.name for shard in corpus.shards("train") if shard.source == "b"
    }
    assert order.num_samples == tiny_corpus.num_samples("train")


def test_a_source_without_training_samples_is_refused_by_its_name(tiny_corpus: PackedCorpus) -> None:
    corpus = mixed(tiny_corpus, ["a"])
    with pytest.raises(CorpusError, match=r"source 'empty' has no training sample to draw"):
        order_of(corpus, sampling(scale_factors={"a": 1.0, "empty": 1.0}))


def test_a_source_that_the_recipe_does_not_name_is_refused(tiny_corpus: PackedCorpus) -> None:
    with pytest.raises(CorpusError, match=r"samples of source 'b', which the recipe does not name \('a'\)"):
        order_of(mixed(tiny_corpus, ["a", "b"]), sampling(scale_factors={"a": 1.0}))


def test_under_inv_frequency_every_class_comes_equally_often(tiny_corpus: PackedCorpus) -> None:
    labels = LabelsPerClass(kind="per_class", count=5)
    order = order_of(tiny_corpus, sampling(weight_mode="inv_frequency", labels=labels))
    usable = set(tiny_corpus.labelled_ids("train", labels).tolist())
    members = tiny_corpus.members("train")
    label_of = dict(zip(members.sample_ids.tolist(), members.labels.tolist(), strict=True))
    recurrence = order.sources[0].recurrence
    assert recurrence is not None
    for turns in (1, 3):
        ids = drawn_ids(order, tiny_corpus, int(recurrence.before(turns).sum()))
        counts = Counter(label_of[each] if each in usable else "none" for each in ids)
        due = turns * tiny_corpus.num_samples("train") / 4  # three classes, and the samples without a label
        assert len(counts) == 4
        assert max(abs(count - due) for count in counts.values()) <= 1, counts


def test_weights_are_of_the_class_in_its_own_source(tiny_corpus: PackedCorpus) -> None:
    """In one source the class is rarer, so each of it comes more often there."""
    corpus = mixed(tiny_corpus, ["a", "b", "b", "b"])
    how = sampling(scale_factors={"a": 1.0, "b": 1.0}, weight_mode="inv_frequency")
    members, start = corpus.members("train"), 0
    by_source: dict[str, list[int]] = {"a": [], "b": []}
    for shard in corpus.shards("train"):
        by_source[shard.source] += members.labels[start : start + shard.num_rows].tolist()
        start += shard.num_rows
    for source in order_of(corpus, how).sources:
        labels, recurrence = by_source[source.name], source.recurrence
        assert recurrence is not None
        due = [len(labels) / len(set(labels)) / labels.count(label) for label in labels]
        assert (recurrence.rates / 2**32).tolist() == pytest.approx(due)


@pytest.mark.parametrize("labels", [NoLabels(kind="none")])
def test_weights_by_label_need_a_label(tiny_corpus: PackedCorpus, labels: Labels) -> None:
    how = sampling(weight_mode="inv_frequency", labels=labels)
    with pytest.raises(RecipeError, match="weighs samples by label, but no training image"):
        order_of(tiny_corpus, how)
    assert order_of(tiny_corpus, replace(how, weight_by="duplicates")).sources[0].recurrence is not None


def test_a_labelled_order_keeps_the_shares_and_leaves_out_sources_without_a_label(tiny_corpus: PackedCorpus) -> None:
    corpus = mixed(tiny_corpus, ["a", "b", "c", "d"])
    labels = LabelsPerClass(kind="per_class", count=1)
    how = sampling(scale_factors=dict.fromkeys("dcba", 1.0), labels=labels)
    order = labelled_order(corpus, labels, seed=0, num_lanes=1, window=None, sampling=how)
    usable, members, start = set(corpus.labelled_ids("train", labels).tolist()), corpus.members("train"), 0
    labelled = set()
    for shard in corpus.shards("train"):
        if usable & set(members.sample_ids[start : start + shard.num_rows].tolist()):
            labelled.add(shard.source)
        start += shard.num_rows
    assert 0 < len(labelled) < 4
    assert [source.name for source in order.sources] == [name for name in "dcba" if name in labelled]
    rows = rows_by_source(corpus)
    assert len({rows[source.name] / source.weight for source in order.sources}) == 1
