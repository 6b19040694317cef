"""The proof that a replayed view is the one the teacher saw: a digest of its pixels at a small size, and a thumbnail.

H, W: height and width in pixels; 3: red, green, blue.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import PIL
from PIL import Image

from kd_ray.config.views import Interpolation, Policy
from kd_ray.errors import ViewMismatch
from kd_ray.views.color import Pixels
from kd_ray.views.kept import AnyView, KeptView

DIGEST_BYTES = 16
DIGEST_INTERPOLATION: Interpolation = "bilinear"
THUMBNAIL_PX = 8
THUMBNAIL_BYTES = THUMBNAIL_PX * THUMBNAIL_PX * 3
# Decoders of one JPEG differ by a few levels a pixel, which the mean of a cell evens out; another view does not.
MAX_THUMBNAIL_DIFFERENCE = 6

Likeness = Literal["same", "rounding", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is stored of a view's pixels at the policy's digest size, or at their own where they are kept: BLAKE2b-128
    of them, and 8x8x3 levels of them.

    Views that were stored before there were thumbnails have none.
    """

    digest: bytes
    thumbnail: bytes | None


def prove(view: AnyView, *, policy: Policy) -> Proof:
    """The proof of `view` at the policy's digest size, or of its kept pixels."""
    if isinstance(view, KeptView):
        view_HW3 = view.pixels_HW3
    else:
        view_HW3 = view.render(policy.digest_size_px, DIGEST_INTERPOLATION)
    small = Image.fromarray(view_HW3).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return Proof(digest=_digest(view_HW3), thumbnail=small.tobytes())


def compare(found: Proof, stored: Proof) -> Likeness:
    """Whether both are of the same pixels, of one view through two decoders, or of different views."""
    if found.digest == stored.digest:
        return "same"
    if found.thumbnail is None or stored.thumbnail is None:
        return "different"
    ours, theirs = (np.frombuffer(each, np.uint8).astype(np.int16) for each in (found.thumbnail, stored.thumbnail))
    return "rounding" if np.abs(ours - theirs).max() <= MAX_THUMBNAIL_DIFFERENCE else "different"


def check_view(view: AnyView, stored: Proof, *, policy: Policy, sample_id: int, view_index: int) -> Likeness:
    """Render the view again and compare it with what is stored of it; "same", or "rounding" of another decoder.

    Raises:
        ViewMismatch: it is another view.
    """
    return check_proof(prove(view, policy=policy), stored, sample_id=sample_id, view_index=view_index)


def check_proof(found: Proof, stored: Proof, *, sample_id: int, view_index: int) -> Likeness:
    """As `check_view`, of a view that has been rendered and proven."""
    likeness = compare(found, stored)
    if likeness == "different":
        raise ViewMismatch(
            f"sample {sample_id:016x}, view {view_index}: the replayed view is not the one the teacher saw: digest got "
            f"{found.digest.hex()}, expected {stored.digest.hex()}. The image, its decoder, Pillow (here "
            f"{PIL.__version__}) or OpenCV (here {cv2.__version__}) has changed: restore what the view set records, or "
            "build a new one."
        )
    return likeness


def _digest(view_HW3: Pixels) -> bytes:
    """BLAKE2b-128 of height and width (4 bytes each, little-endian) and pixels."""
    height, width = view_HW3.shape[:2]
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(height.to_bytes(4, "little") + width.to_bytes(4, "little"))
    digest.update(view_HW3.data)
    return digest.digest()
