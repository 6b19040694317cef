"""What modules inside a network give and get, by name, from one pass.

Shape letters: B batch, C channels, H and W grid, D width, N tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from kd_ray.config.outputs import Layer
from kd_ray.errors import ModelError
from kd_ray.models.readers.base import as_map, title_of


@contextmanager
def seen_in(module: nn.Module, *, outputs: Sequence[str], inputs: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Fills a mapping of module names to what they gave, and of `name:input` to the first thing that they got.

    Raises:
        ModelError: there is no module of a name.
    """
    found: dict[str, Any] = {}
    handles = []
    try:
        for name in outputs:
            inner = named(module, name)
            handles.append(inner.register_forward_hook(lambda _m, _i, given, name=name: found.update({name: given})))
        for name in inputs:
            inner = named(module, name)
            handles.append(
                inner.register_forward_pre_hook(lambda _m, got, name=name: found.update({f"{name}:input": got[0]}))
            )
        yield found
    finally:
        for handle in handles:
            handle.remove()


def named(module: nn.Module, name: str) -> nn.Module:
    """The module `name` inside `module`.

    Raises:
        ModelError: there is none; those beside it are named.
    """
    parent = module
    for i, part in enumerate(name.split(".")):
        children = dict(parent.named_children())
        if part not in children:
            where = ".".join(name.split(".")[:i]) or title_of(module)
            raise ModelError(
                f"layer {name!r}: {where} has no {part!r}; it has {', '.join(children) or 'no modules'}. Give the "
                "dotted name of one of the network's modules."
            )
        parent = children[part]
    return parent


def layer_summary(layer: Layer, found: dict[str, Any]) -> Tensor:
    """The layer's output as [B, D].

    Raises:
        ModelError: it is not one vector, or the layer was not run.
    """
    value = _tensor(layer, found)
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    if value.ndim != 2:
        raise ModelError(
            f"layer {layer.layer!r} gives {_shape(value)}, not one vector [B, D]; ask for it as spatial_from, or take "
            "another layer."
        )
    return value


def layer_map(layer: Layer, found: dict[str, Any], size_px: Sequence[int]) -> Tensor:
    """The layer's output as [B, D, H, W].

    Raises:
        ModelError: it is no map and no tokens of a grid, or the layer was not run.
    """
    value = _tensor(layer, found)
    if value.ndim == 4:
        return value.permute(0, 3, 1, 2) if layer.channels_last else value
    if value.ndim == 3:
        return as_map(value[:, layer.prefix_tokens :], size_px, what=f"layer {layer.layer!r}")
    raise ModelError(
        f"layer {layer.layer!r} gives {_shape(value)}, not [B, C, H, W] or [B, N, D]; ask for it as summary_from, or "
        "take another layer."
    )


def _tensor(layer: Layer, found: dict[str, Any]) -> Tensor:
    if layer.layer not in found:
        raise ModelError(f"layer {layer.layer!r} is not run in a forward pass that gives these outputs; take another.")
    value = found[layer.layer]
    if not isinstance(value, Tensor):
        raise ModelError(f"layer {layer.layer!r} gives {type(value).__name__}, not a tensor; take one inside it.")
    return value


def _shape(value: Tensor) -> str:
    return f"[B, {', '.join(map(str, value.shape[1:]))}]"
