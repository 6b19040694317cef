"""A digest of a view's pixels at a small size: proof that a replayed view is the one the teacher saw."""

import hashlib

import cv2
import PIL

from kd_ray.config.views import Interpolation, Policy
from kd_ray.errors import ViewMismatch
from kd_ray.views.color import Pixels
from kd_ray.views.params import ViewParams
from kd_ray.views.render import render

DIGEST_BYTES = 16
DIGEST_INTERPOLATION: Interpolation = "bilinear"


def view_digest(image_HW3: Pixels, params: ViewParams, *, policy: Policy, partner_HW3: Pixels | None = None) -> bytes:
    """BLAKE2b-128 of height and width (4 bytes each, little-endian) and pixels of the view at `digest_size_px`."""
    height, width = policy.digest_size_px
    view_HW3 = render(
        image_HW3, params, size_px=(height, width), interpolation=DIGEST_INTERPOLATION, partner_HW3=partner_HW3
    )
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(height.to_bytes(4, "little") + width.to_bytes(4, "little"))
    digest.update(view_HW3.data)
    return digest.digest()


def check_digest(
    image_HW3: Pixels,
    params: ViewParams,
    *,
    policy: Policy,
    expected: bytes,
    sample_id: int,
    view_index: int,
    partner_HW3: Pixels | None = None,
) -> None:
    """Render the view again and compare.

    Raises:
        ViewMismatch: the digest is not `expected`.
    """
    found = view_digest(image_HW3, params, policy=policy, partner_HW3=partner_HW3)
    if found != expected:
        raise ViewMismatch(
            f"sample {sample_id:016x}, view {view_index}: the replayed view is not the one the teacher saw: digest got "
            f"{found.hex()}, expected {expected.hex()}. The image, its decoder, Pillow (here {PIL.__version__}) or "
            f"OpenCV (here {cv2.__version__}) has changed: restore what the view set records, or build a new one."
        )
