"""Views of packed rows: partners come from the row group, and params alone replay a view."""

from dataclasses import replace

import numpy as np
import pytest

from kd_ray.cache.replay import Replay
from kd_ray.corpus.packed import PackedCorpus, Rows
from kd_ray.views import View, mix_of, params_from_json, params_to_json, render
from tests.support.tiny_world import MIXED_POLICY, POLICY, ROW_GROUP_SIZE, VIEW_SEED, images_of

NUM_VIEWS = 6


@pytest.fixture
def rows(tiny_corpus: PackedCorpus) -> Rows:
    shard = tiny_corpus.shards("train")[0]
    return tiny_corpus.read_rows(shard.name, 0, len(shard.rows_per_group))


def views_of(rows: Rows, row: int) -> list[View]:
    return Replay(rows, policy=MIXED_POLICY, seed=VIEW_SEED).views(row, range(NUM_VIEWS))


def test_partners_are_other_samples_of_the_row_group(rows: Rows) -> None:
    assert len(rows.rows_per_group) > 1
    num_mixed = 0
    for row, sample_id in enumerate(rows.sample_ids.tolist()):
        start = row - row % ROW_GROUP_SIZE
        group = set(rows.sample_ids[start : start + ROW_GROUP_SIZE].tolist()) - {sample_id}
        partners = [mix.partner for view in views_of(rows, row) if (mix := mix_of(view.params))]
        assert group.issuperset(partners)
        num_mixed += len(partners)
    share = num_mixed / (len(rows.images) * NUM_VIEWS)
    assert share == pytest.approx(0.75, abs=0.13)  # 4 sigma of 192


def test_a_row_group_read_alone_gives_the_same_views(tiny_corpus: PackedCorpus, rows: Rows) -> None:
    shard = tiny_corpus.shards("train")[0]
    alone = tiny_corpus.read_rows(shard.name, 1, 2)
    for place in range(len(alone.images)):
        for one, other in zip(views_of(alone, place), views_of(rows, ROW_GROUP_SIZE + place), strict=True):
            assert one.params == other.params
            assert np.array_equal(one.render((16, 16), "bilinear"), other.render((16, 16), "bilinear"))


def test_the_params_as_stored_and_the_images_give_the_same_pixels(tiny_corpus: PackedCorpus, rows: Rows) -> None:
    images = images_of(tiny_corpus)
    for row, sample_id in enumerate(rows.sample_ids.tolist()[:12]):
        for view in views_of(rows, row):
            stored = params_from_json(params_to_json(view.params))
            mix = mix_of(stored)
            found = render(
                images[sample_id],
                stored,
                size_px=(20, 28),
                interpolation="bicubic",
                partner_HW3=None if mix is None else images[mix.partner],
            )
            assert np.array_equal(found, view.render((20, 28), "bicubic"))


def test_a_row_group_in_another_order_mixes_otherwise_and_unmixed_views_stay(rows: Rows) -> None:
    order = [1, 0, *range(2, len(rows.images))]
    turned = replace(rows, sample_ids=rows.sample_ids[order], images=[rows.images[i] for i in order])
    mixed = [[view.params for view in views_of(each, row)] for each, row in ((rows, 0), (turned, 1))]
    assert mixed[0] != mixed[1]
    plain = [
        [view.params for view in Replay(each, policy=POLICY, seed=VIEW_SEED).views(row, range(NUM_VIEWS))]
        for each, row in ((rows, 0), (turned, 1))
    ]
    assert plain[0] == plain[1]


def test_keeping_no_images_changes_nothing(rows: Rows) -> None:
    sparing = Replay(rows, policy=MIXED_POLICY, seed=VIEW_SEED, max_kept_bytes=0)
    for one, other in zip(sparing.views(3, range(NUM_VIEWS)), views_of(rows, 3), strict=True):
        assert np.array_equal(one.render((8, 8), "bilinear"), other.render((8, 8), "bilinear"))
