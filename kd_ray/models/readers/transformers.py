"""Vision towers of Hugging Face transformers.

Shape letters: B batch, H and W grid, D width, N tokens.
"""

import inspect
from typing import Any

from torch import Tensor, nn

from kd_ray.errors import ModelError
from kd_ray.models.readers.base import Asked, Given, title_of

FINAL_NORMS = ("post_layernorm", "layernorm", "norm")


class TransformersReader:
    """The summary is `pooler_output`, or the class token after the norm where there is none."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._config: Any = module.config

    def available(self) -> tuple[str, ...]:
        """Outputs that it has."""
        return ("summary", "spatial")

    def num_stages(self) -> int:
        """Blocks whose maps it has."""
        depths = getattr(self._config, "depths", None)
        return len(depths) if depths is not None else int(self._config.num_hidden_layers)

    def has_class_token(self) -> bool:
        """Whether its blocks have one."""
        return any("cls_token" in name or "class_embedding" in name for name, _ in self._module.named_parameters())

    def read(self, x_BCHW: Tensor, asked: Asked) -> Given:
        """One forward pass."""
        found: Any = self._module(x_BCHW, output_hidden_states=True, return_dict=True, **self._resized(x_BCHW))
        states = found.hidden_states
        maps: list[Tensor] = []
        tokens: list[tuple[Tensor, Tensor]] = []
        if states[-1].ndim == 4:  # convolutional: the maps of its stages
            maps = [states[1:][stage] for stage in asked.stages]
        else:
            normed = {i: self._norm(states[1:][i]) for i in self._wanted(asked)}
            split = {i: self._split(each, x_BCHW) for i, each in normed.items()}
            last = self.num_stages()
            tokens = [split[i] for i in range(last - asked.num_blocks, last)]
            height, width = self._grid(x_BCHW)
            for stage in asked.stages:
                patches_BND = split[stage][1]
                maps.append(patches_BND.transpose(1, 2).reshape(len(patches_BND), -1, height, width))
        return Given(
            pooled_BD=self._pooled(found) if asked.pooled else None,
            maps=maps,
            tokens=tokens,
        )

    def _wanted(self, asked: Asked) -> set[int]:
        last = self.num_stages()
        return {*range(last - asked.num_blocks, last), *asked.stages}

    def _pooled(self, found: Any) -> Tensor:
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        if not self.has_class_token():
            raise ModelError(f"{title_of(self._module)} pools nothing and has no class token; ask for spatial instead.")
        last_BND: Tensor = found.last_hidden_state
        return last_BND[:, 0]

    def _norm(self, states_BND: Tensor) -> Tensor:
        norm = next((getattr(self._module, name) for name in FINAL_NORMS if hasattr(self._module, name)), None)
        return states_BND if norm is None else norm(states_BND)

    def _grid(self, x_BCHW: Tensor) -> tuple[int, int]:
        patch = self._config.patch_size
        height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
        return x_BCHW.shape[2] // height, x_BCHW.shape[3] // width

    def _split(self, tokens_BND: Tensor, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The first token, and those of patches: the last ones, after class and register tokens."""
        height, width = self._grid(x_BCHW)
        return tokens_BND[:, 0], tokens_BND[:, -height * width :]

    def _resized(self, x_BCHW: Tensor) -> dict[str, bool]:
        """Position embeddings are resized for another size where the model can."""
        own = getattr(self._config, "image_size", None)
        own = own if isinstance(own, list | tuple) else (own, own)
        can = "interpolate_pos_encoding" in inspect.signature(self._module.forward).parameters
        return {"interpolate_pos_encoding": True} if can and tuple(own) != tuple(x_BCHW.shape[2:]) else {}
