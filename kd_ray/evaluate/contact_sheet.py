"""A picture of views: samples by views, as a model of some input size sees them."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.views import draw, render

GAP_PX = 4
MIN_CELL_PX = 64
BACKGROUND = 255


def contact_sheet(
    corpus: PackedCorpus, *, policy: Policy, view_seed: int, num_views: int, size: Input, num_samples: int
) -> bytes:
    """A PNG: one row per sample of the first training row group, the whole image first, then its views."""
    shard = corpus.shards("train")[0]
    rows = corpus.read_rows(shard.name, 0, 1)
    lines = []
    for data, sample_id in zip(rows.images[:num_samples], rows.sample_ids.tolist(), strict=False):
        image_HWC = decode(data)
        height, width = image_HWC.shape[:2]
        cells = [_cell(_fitted(image_HWC, size))]
        for view_index in range(num_views):
            params = draw(
                policy, seed=view_seed, sample_id=sample_id, view_index=view_index, image_size_px=(height, width)
            )
            cells.append(_cell(render(image_HWC, params, size_px=size.size_px, interpolation=size.interpolation)))
        lines.append(_beside(cells))
    return _png(_below(lines))


def _fitted(image_HWC: NDArray[np.uint8], size: Input) -> NDArray[np.uint8]:
    """The whole image inside the input size, its sides in proportion, on white."""
    target_height, target_width = size.size_px
    image = Image.fromarray(image_HWC)
    scale = min(target_height / image.height, target_width / image.width)
    resized = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    canvas = Image.new("RGB", (target_width, target_height), (BACKGROUND,) * 3)
    canvas.paste(resized, ((target_width - resized.width) // 2, (target_height - resized.height) // 2))
    return np.asarray(canvas)


def _cell(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small views enlarged by whole pixels, so that what the model gets can be seen."""
    factor = max(MIN_CELL_PX // min(pixels_HWC.shape[:2]), 1)
    enlarged = pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(enlarged, ((GAP_PX, GAP_PX), (GAP_PX, GAP_PX), (0, 0)), constant_values=BACKGROUND)


def _beside(cells: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate(cells, axis=1)


def _below(lines: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate(lines, axis=0)


def _png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
