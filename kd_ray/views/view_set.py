"""What a view set is: everything that decides params, pixels and digests of its views."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import PIL
import PIL.features

from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.errors import FingerprintMismatch
from kd_ray.storage.base import canonical_json
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


def policy_of(identity: Mapping[str, Any], *, name: str) -> tuple[Policy, KeptFormat | None]:
    """The policy under a label of one's own and the kept format of a view set, back from its identity.

    Raises:
        FingerprintMismatch: it is of a policy that this version does not know.
    """
    try:
        policy = Policy.model_validate(
            {
                "name": name,
                "operations": identity["policy"]["operations"],
                "mix": identity["policy"].get("mix"),
                "digest_size_px": identity["digest_size_px"],
                "renderer_version": identity["renderer"],
            }
        )
        kept = identity.get("kept")
        form = kept and KeptFormat(size_px=tuple(kept["size_px"]), codec=kept["codec"], quality=kept["quality"])
        again = view_set_identity(
            policy,
            seed=identity["seed"],
            corpus_id=identity["corpus_id"],
            split=identity["split"],
            masks_id=identity["masks"] if policy.reads_masks else None,
            kept=form,
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(":.")
        raise FingerprintMismatch(f"views {name}: are of a policy that this version does not know: {reason}.") from None
    if canonical_json(again) != canonical_json(dict(identity)):
        raise FingerprintMismatch(
            f"views {name}: this version would draw others from what their identity says "
            f"(draw {identity.get('draw')!r}, known: {DRAW_DOMAIN!r})."
        )
    return policy, form


def renderer_versions() -> dict[str, str]:
    """The libraries that make the pixels: recorded beside a view set, not part of its identity (the digests decide)."""
    return {
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "pillow_libjpeg_turbo": str(PIL.features.version("libjpeg_turbo")),
        "pillow_libwebp": str(PIL.features.version("webp")),
    }
