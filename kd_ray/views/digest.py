"""The proof that a replayed view is the one the teacher saw: a digest of its pixels at a small size, and a thumbnail.

H, W: height and width in pixels; 3: red, green, blue.
"""

import hashlib
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import cv2
import numpy as np
import PIL
from PIL import Image

from kd_ray.config.views import Interpolation, Policy
from kd_ray.errors import ViewMismatch
from kd_ray.views.color import Pixels
from kd_ray.views.decoders import Levels, decoder_spread, enlarges, has_jumps
from kd_ray.views.kept import AnyView, KeptView
from kd_ray.views.params import ViewParams

DIGEST_BYTES = 16
DIGEST_INTERPOLATION: Interpolation = "bilinear"
THUMBNAIL_PX = 8
THUMBNAIL_BYTES = THUMBNAIL_PX * THUMBNAIL_PX * 3
# Decoders of one JPEG differ by a few levels a pixel, which the mean of a cell evens out; another view does not. Some
# tone steps turn those levels into tens: `decoder_spread` says how far.
MAX_THUMBNAIL_DIFFERENCE = 6
# Where steps jump, a pixel of a cell of 4x4 may go from black to white; two of each channel may.
MAX_JUMP, MAX_JUMPS = 16, 6

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
    return Proof(digest=_digest(view_HW3), thumbnail=_small(view_HW3).tobytes())


def compare(found: Proof, stored: Proof) -> Likeness:
    """Whether both are of the same pixels, of one view through two decoders, or of different views, by these alone: a
    view with tone steps may count as different though only the decoder is (`check_view` has the view, and looks).
    """
    if found.digest == stored.digest:
        return "same"
    difference = _difference(found, stored)
    return "different" if difference is None or difference.max() > MAX_THUMBNAIL_DIFFERENCE else "rounding"


def check_view(
    view: AnyView, stored: Proof, stored_params: ViewParams, *, policy: Policy, sample_id: int, view_index: int
) -> Likeness:
    """Render the view again and compare it with what is stored of it; "same", or "rounding" of another decoder.

    Raises:
        ViewMismatch: it is another view, by its params or by its pixels.
    """
    found = prove(view, policy=policy)
    if view.params != stored_params:
        reason = f"its params are {_differing(view.params, stored_params)}"
        raise _mismatch(found, stored, reason, sample_id=sample_id, view_index=view_index)
    likeness = compare(found, stored)
    if likeness == "different":
        likeness = _through_tone_steps(view, found, stored, policy=policy)
    if likeness == "different":
        reason = (
            f"the image, its decoder, Pillow (here {PIL.__version__}) or OpenCV (here {cv2.__version__}) has changed"
        )
        raise _mismatch(found, stored, reason, sample_id=sample_id, view_index=view_index)
    return likeness


def _through_tone_steps(view: AnyView, found: Proof, stored: Proof, *, policy: Policy) -> Likeness:
    """As `compare`, with what the view's own steps make of the rounding of a decoder; kept pixels have none before."""
    difference = _difference(found, stored)
    if difference is None or isinstance(view, KeptView) or not enlarges(view.params):
        return "different"
    spread = decoder_spread(view, policy.digest_size_px, DIGEST_INTERPOLATION, small=_small)
    excess = difference - (MAX_THUMBNAIL_DIFFERENCE + spread.ravel())
    max_jumps = MAX_JUMPS if has_jumps(view.params) else 0
    is_rounding = excess.max() <= MAX_JUMP and np.count_nonzero(excess > 0) <= max_jumps
    return "rounding" if is_rounding else "different"


def _difference(found: Proof, stored: Proof) -> Levels | None:
    """Of each level of the thumbnails; None where there are none."""
    if found.thumbnail is None or stored.thumbnail is None:
        return None
    ours, theirs = (np.frombuffer(each, np.uint8).astype(np.int16) for each in (found.thumbnail, stored.thumbnail))
    difference: Levels = np.abs(ours - theirs)
    return difference


def _differing(found: ViewParams, stored: ViewParams) -> str:
    """The first operation that differs, as it is and as it was."""
    ours, theirs = next(pair for pair in zip_longest(found, stored) if pair[0] != pair[1])
    return f"{ours}, stored are {theirs}"


def _mismatch(found: Proof, stored: Proof, reason: str, *, sample_id: int, view_index: int) -> ViewMismatch:
    return ViewMismatch(
        f"sample {sample_id:016x}, view {view_index}: the replayed view is not the one the teacher saw: digest got "
        f"{found.digest.hex()}, expected {stored.digest.hex()}; {reason}. Restore what the view set records, or build "
        "a new one."
    )


def _small(view_HW3: Pixels) -> Pixels:
    """The thumbnail, [8, 8, 3]."""
    return np.array(Image.fromarray(view_HW3).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX))


def _digest(view_HW3: Pixels) -> bytes:
    """BLAKE2b-128 of height and width (4 bytes each, little-endian) and pixels."""
    height, width = view_HW3.shape[:2]
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(height.to_bytes(4, "little") + width.to_bytes(4, "little"))
    digest.update(view_HW3.data)
    return digest.digest()
