"""What a view set is: everything that decides params, pixels and digests of its views."""

from typing import Any

import cv2
import numpy as np
import PIL
import PIL.features

from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.views.draw import DRAW_DOMAIN, policy_identity


def view_set_identity(
    policy: Policy,
    *,
    seed: int,
    corpus_id: str,
    split: str,
    masks_id: str | None = None,
    kept: KeptFormat | None = None,
) -> dict[str, Any]:
    """The identity of the views that `policy` and `seed` give on `split` of a corpus; their number may grow later.

    `masks_id` says which masks they are drawn by; None where the policy looks at none. Views whose pixels are `kept`
    are others: nobody sees them but through their codec.
    """
    assert (masks_id is not None) == policy.reads_masks, "masks decide views exactly where the policy reads them"
    identity = {
        "corpus_id": corpus_id,
        "split": split,
        "policy": policy_identity(policy),
        "seed": seed,
        "digest_size_px": list(policy.digest_size_px),
        "draw": DRAW_DOMAIN,
        "renderer": policy.renderer_version,
        **({} if kept is None else {"kept": kept.identity()}),
    }
    return identity if masks_id is None else {**identity, "masks": masks_id}


def renderer_versions() -> dict[str, str]:
    """The libraries that make the pixels: recorded beside a view set, not part of its identity (the digests decide)."""
    return {
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "pillow_libjpeg_turbo": str(PIL.features.version("libjpeg_turbo")),
        "pillow_libwebp": str(PIL.features.version("webp")),
    }
