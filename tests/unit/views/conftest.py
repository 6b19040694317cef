"""One image and one policy for the tests of the views."""

import numpy as np
import pytest

from kd_ray.config.views import ColorJitter, HorizontalFlip, Policy, RandomResizedCrop
from kd_ray.views.color import Pixels


@pytest.fixture(scope="session")
def image_HW3() -> Pixels:  # noqa: N802
    """60x80, smooth, of every brightness and many colours, from whole numbers only."""
    y_H1, x_1W = np.mgrid[:60, :80]
    channels = [(x_1W * 3 + y_H1) % 256, (x_1W * y_H1 // 16) % 256, (255 - 4 * y_H1 + x_1W // 2) % 256]
    return np.ascontiguousarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.fixture(scope="session")
def strong_policy() -> Policy:
    return Policy(
        name="strong",
        operations=(
            RandomResizedCrop(kind="random_resized_crop", scale=(0.2, 1.0)),
            HorizontalFlip(kind="horizontal_flip"),
            ColorJitter(kind="color_jitter", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8),
        ),
    )
