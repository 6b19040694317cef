"""The contact sheet shows the very pixels that a model gets."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.models import Input
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.evaluate.contact_sheet import GAP_PX, MIN_CELL_PX, contact_sheet
from kd_ray.views import draw, render
from tests.support.tiny_world import POLICY, ROW_GROUP_SIZE, VIEW_SEED, images_of

NUM_VIEWS = 3


def sheet_of(corpus: PackedCorpus, *, size: Input, num_samples: int) -> NDArray[np.uint8]:
    data = contact_sheet(
        corpus, policy=POLICY, view_seed=VIEW_SEED, num_views=NUM_VIEWS, size=size, num_samples=num_samples
    )
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.array(image)


# enlarged twice and not square; not enlarged
@pytest.mark.parametrize(("size_px", "factor"), [((24, 40), 2), ((MIN_CELL_PX, 70), 1)])
def test_cells_are_the_rendered_views(tiny_corpus: PackedCorpus, size_px: tuple[int, int], factor: int) -> None:
    size, num_samples = Input(size_px=size_px, interpolation="bilinear"), 5
    sheet = sheet_of(tiny_corpus, size=size, num_samples=num_samples)
    height, width = (side * factor + 2 * GAP_PX for side in size_px)
    assert sheet.shape == (num_samples * height, (1 + NUM_VIEWS) * width, 3)
    images = images_of(tiny_corpus)
    shard = tiny_corpus.shards("train")[0].name
    for row, sample_id in enumerate(tiny_corpus.read_rows(shard, 0, 1).sample_ids[:num_samples].tolist()):
        image = images[sample_id]
        for view in range(NUM_VIEWS):
            params = draw(POLICY, seed=VIEW_SEED, sample_id=sample_id, view_index=view, image_size_px=image.shape[:2])
            cell = sheet[row * height : (row + 1) * height, (1 + view) * width : (2 + view) * width]
            inner = cell[GAP_PX:-GAP_PX, GAP_PX:-GAP_PX]
            wanted = render(image, params, size_px=size_px, interpolation="bilinear")
            np.testing.assert_array_equal(inner, wanted.repeat(factor, axis=0).repeat(factor, axis=1))
            assert (cell[:GAP_PX] == 255).all()


def test_the_first_column_is_the_whole_image_in_proportion(tiny_corpus: PackedCorpus) -> None:
    sheet = sheet_of(tiny_corpus, size=Input(size_px=(64, 64)), num_samples=1)
    cell = sheet[GAP_PX : 64 + GAP_PX, GAP_PX : 64 + GAP_PX]
    shard = tiny_corpus.shards("train")[0].name
    image = images_of(tiny_corpus)[int(tiny_corpus.read_rows(shard, 0, 1).sample_ids[0])]
    height, width = image.shape[:2]
    ink = (cell != 255).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    scale = 64 / max(height, width)
    # the image may have white at its border itself
    assert abs(len(rows) - height * scale) <= 1
    assert abs(len(columns) - width * scale) <= 1


def test_no_more_rows_than_the_first_row_group_has(tiny_corpus: PackedCorpus) -> None:
    sheet = sheet_of(tiny_corpus, size=Input(size_px=(64, 64)), num_samples=1000)
    assert sheet.shape[0] == ROW_GROUP_SIZE * (64 + 2 * GAP_PX)


def test_the_same_views_give_the_same_bytes(tiny_corpus: PackedCorpus) -> None:
    settings = {"policy": POLICY, "view_seed": VIEW_SEED, "num_views": 2, "num_samples": 2}
    size = Input(size_px=(24, 24))
    assert contact_sheet(tiny_corpus, size=size, **settings) == contact_sheet(tiny_corpus, size=size, **settings)
