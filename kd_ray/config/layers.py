"""Laying one part of a recipe over another: files over their bases, overrides over files, fields over a preset."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_ray.config.base import Misfits

POLICY = "policy"  # a section that may be the name of a preset


def merged(base: Any, layer: Any, *, at: tuple[str, ...] = ()) -> Any:
    """`layer` over `base`: mappings key by key, lists by index where the layer says so (`losses.0.weight=2`).

    Raises:
        Misfits: an index beyond the next entry of a list, or below 0; `at` is where `base` is.
    """
    if isinstance(base, list | tuple) and isinstance(layer, Mapping) and all(map(_is_index, layer)):
        return _merged_by_index(base, layer, at=at)
    if not (isinstance(base, Mapping) and isinstance(layer, Mapping)):
        return layer
    result = dict(base)
    for key, value in layer.items():
        below = _below_policy(base.get(key), value) if key == POLICY else base.get(key)
        result[key] = merged(below, value, at=(*at, str(key))) if key in base else value
    return result


def beyond(num_entries: int) -> str:
    """What to say of an index that a list of so many entries does not have."""
    return f"the list has {num_entries} entries, counted from 0; the next one to add is {num_entries}"


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


def _is_index(key: Any) -> bool:
    return str(key).removeprefix("-").isdigit()


def _merged_by_index(base: Sequence[Any], layer: Mapping[Any, Any], *, at: tuple[str, ...]) -> list[Any]:
    result, wrong = list(base), list[tuple[str, str]]()
    for key, value in sorted(layer.items(), key=lambda item: int(item[0])):
        place = (*at, str(key))
        if 0 <= int(key) < len(result):
            result[int(key)] = merged(result[int(key)], value, at=place)
        elif int(key) == len(result):
            result.append(value)
        else:
            wrong.append((".".join(place), beyond(len(result))))
    if wrong:
        raise Misfits(wrong)
    return result
