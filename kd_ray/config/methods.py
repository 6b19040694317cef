"""Known methods by name, as the ordinary fields of `train` that they stand for (`train.method`).

What of a method each is, and what it is not, is in docs/losses.md.
"""

from collections.abc import Mapping
from typing import Any, Literal

from kd_ray.config.base import Misfits

Method = Literal[
    "hinton",
    "patient",
    "lightly_v1",
    "lightly_v2",
    "lightly_v3",
    "radio",
    "supergradients",
    "tinyvit",
    "theia",
    "unic",
]
Values = Mapping[str, Any]

_MLP: Values = {"kind": "mlp"}
_LINEAR: Values = {"kind": "linear"}


def _feature(output: str, distance: str, weight: float = 1.0, *, head: Values = _MLP, **more: Any) -> dict[str, Any]:
    return {"kind": "feature", "output": output, "distance": distance, "weight": weight, "head": dict(head), **more}


_QUEUE: Values = {"kind": "contrastive", "temperature": 0.07, "head": dict(_LINEAR)}

EXPANSIONS: Mapping[str, Values] = {
    "hinton": {
        "losses": [{"kind": "kd", "temperature": 4.0, "weight": 0.9}, {"kind": "cross_entropy", "weight": 0.1}],
    },
    "patient": {
        "losses": [{"kind": "kd", "temperature": 1.0}],
        "schedule": {"kind": "cosine"},
        "gradient_clip": 1.0,
    },
    "lightly_v1": {"losses": [dict(_QUEUE)]},
    "lightly_v2": {"losses": [_feature("spatial", "mse", head=_LINEAR)]},
    "lightly_v3": {
        "losses": [
            dict(_QUEUE),
            {
                "kind": "relational",
                "output": "spatial",
                "distance": "token_similarity",
                "temperature": 0.07,
                "head": dict(_LINEAR),
            },
        ],
    },
    "radio": {
        "losses": [
            _feature("summary", "cosine"),
            _feature("spatial", "balanced", standardize="phi_s"),
        ],
    },
    "supergradients": {
        "losses": [{"kind": "kd", "temperature": 1.0, "weight": 0.5}, {"kind": "cross_entropy", "weight": 0.5}],
    },
    "tinyvit": {
        "losses": [{"kind": "kd", "temperature": 1.0, "remainder": "uniform"}],
        "optimizer": {"kind": "adamw"},
        "schedule": {"kind": "cosine"},
    },
    "theia": {
        "losses": [
            _feature("spatial", "balanced", beta=1.0, standardize="phi_s"),
        ],
    },
    "unic": {
        "losses": [
            _feature(output, "balanced", cosine_share=0.5, beta=1.0, standardize="phi_s")
            for output in ("summary", "spatial")
        ],
    },
}


def expanded(values: Values) -> dict[str, Any]:
    """The fields of `train` with those that `method` stands for; what is written beside it wins, key by key.

    Raises:
        Misfits: losses are given too.
    """
    method = values.get("method")
    if not isinstance(method, str) or method not in EXPANSIONS:
        return dict(values)  # an unknown one is told as any other wrong value
    if "losses" in values:
        raise Misfits([("method", f"{method} stands for losses, but losses are given too; remove one of the two")])
    found = dict(values)
    for name, value in EXPANSIONS[method].items():
        own = values.get(name)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            # another kind is another thing: it keeps nothing of the method's
            found[name] = {**value, **own} if own.get("kind", value.get("kind")) == value.get("kind") else own
        elif name not in values:
            found[name] = value
    return found
