"""Networks that give their outputs themselves: exported programs, and what functions of users give.

Shape letters: B batch, H and W grid, D width, K classes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd_ray.errors import ModelError
from kd_ray.models.readers.base import Asked, Given, title_of

OUTPUT_NDIMS: Mapping[str, tuple[int, ...]] = {"summary": (2,), "spatial": (4,), "logits": (2, 4)}


class PlainReader:
    """`forward` gives a tensor, which is logits [B, K] or [B, K, H, W], or a mapping of "summary" [B, D], "spatial"
    [B, H, W, D] and "logits" [B, K] or [B, H, W, K] to those that it has.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def available(self) -> None:
        """Only running it tells."""
        return

    def num_stages(self) -> int:
        """It has the one map that it gives."""
        return 1

    def has_class_token(self) -> bool:
        """It has no blocks."""
        return False

    def read(self, x_BCHW: Tensor, asked: Asked) -> Given:
        """One forward pass.

        Raises:
            ModelError: it gives something else, or lacks what is asked.
        """
        found = self._named(self._module(x_BCHW))
        wanted = {"summary": asked.pooled, "spatial": bool(asked.stages), "logits": asked.logits}
        lacking = [name for name, is_wanted in wanted.items() if is_wanted and name not in found]
        if lacking:
            raise ModelError(
                f"{title_of(self._module)} gives {', '.join(found)}, but {' and '.join(lacking)} is asked of it. Let "
                "its forward return a dict with those, name a layer (summary_from, spatial_from), or ask for less."
            )
        spatial_BHWD = found.get("spatial")
        return Given(
            pooled_BD=found.get("summary"),
            logits=found.get("logits"),
            maps=[] if spatial_BHWD is None else [spatial_BHWD.permute(0, 3, 1, 2)] * len(asked.stages),
        )

    def _named(self, given: Any) -> dict[str, Tensor]:
        if isinstance(given, Tensor):
            given = {"logits": given.permute(0, 2, 3, 1) if given.ndim == 4 else given}
        is_mapping = isinstance(given, Mapping) and bool(given)
        if not is_mapping or not all(
            isinstance(value, Tensor) and value.ndim in OUTPUT_NDIMS.get(name, ()) for name, value in given.items()
        ):
            raise ModelError(
                f"{title_of(self._module)} gives {_description(given)}; its forward has to return logits [B, K] or "
                "[B, K, H, W], or a dict with some of summary [B, D], spatial [B, H, W, D] and logits [B, K] or "
                "[B, H, W, K]."
            )
        return dict(given)


def _description(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(f'{name} {_one(value)}' for name, value in given.items()) or 'nothing'}"
    return _one(given)


def _one(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
