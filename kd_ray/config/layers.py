"""Laying one part of a recipe over another: files over their bases, overrides over files, fields over a preset."""

from collections.abc import Mapping, Sequence
from typing import Any

POLICY = "policy"  # a section that may be the name of a preset


def merged(base: Any, layer: Any) -> Any:
    """`layer` over `base`: mappings key by key, lists by index where the layer says so (`losses.0.weight=2`)."""
    if isinstance(base, list | tuple) and isinstance(layer, Mapping) and all(str(key).isdigit() for key in layer):
        return _merged_by_index(base, layer)
    if not (isinstance(base, Mapping) and isinstance(layer, Mapping)):
        return layer
    result = dict(base)
    for key, value in layer.items():
        below = _below_policy(base.get(key), value) if key == POLICY else base.get(key)
        result[key] = merged(below, value) if key in base else value
    return result


def _below_policy(base: Any, layer: Any) -> Any:
    """What the fields of a policy are laid over: the name of a preset is `{preset: name}`.

    Nothing where one of the two is a policy in full and the other a preset: the later one is another policy.
    """
    if not isinstance(layer, Mapping):
        return base
    if isinstance(base, str):
        return None if _is_whole(layer) else {"preset": base}
    if "preset" in layer and isinstance(base, Mapping) and _is_whole(base):
        return None
    return base


def _is_whole(policy: Mapping[str, Any]) -> bool:
    if "preset" in policy or "name" not in policy:
        return False
    kinds = policy.get("kinds")
    drawn = [policy, *(kinds.values() if isinstance(kinds, Mapping) else [])]
    return any(isinstance(each, Mapping) and isinstance(each.get("operations"), list | tuple) for each in drawn)


def _merged_by_index(base: Sequence[Any], layer: Mapping[Any, Any]) -> list[Any]:
    result = list(base)
    for key, value in sorted(layer.items(), key=lambda item: int(item[0])):
        if int(key) < len(result):
            result[int(key)] = merged(result[int(key)], value)
        else:
            result.append(value)
    return result
