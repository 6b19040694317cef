"""Cheaper ways to store what a recipe asks for: fewer views, int8, the k greatest logits, pooled grids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kd_ray.cache.codecs import Coding
from kd_ray.config.outputs import USUAL_TEMPERATURES
from kd_ray.extraction.cost import TargetVolume

KEPT_CLASSES = 10
MIN_CLASSES_FOR_TOP_K = 100  # below, 10 logits with their log-sum-exp save nothing worth the loss
WIDE_CODECS = frozenset({"float32", "float16", "bfloat16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A change of the recipe, and what is left to store and to compute with it; `hours` is None where no rate is known.

    `note` says what is given up.
    """

    change: str
    num_bytes: int
    num_views: int
    hours: float | None
    note: str


def alternatives(
    volumes: Sequence[TargetVolume], *, views_per_sample: int, seconds_per_view: Mapping[str, float]
) -> list[Alternative]:
    """The recipe as it is, then each change that applies by itself, in whole target sets.

    `seconds_per_view` is by teacher; where one is missing no hours are told.
    """
    ways = [_way("as it is", volumes, seconds_per_view, note="")]
    if views_per_sample > 1:
        fewer = [_with_share(volume, views_per_sample // 2, views_per_sample) for volume in volumes]
        change = f"views.count: half ({views_per_sample // 2} of {views_per_sample} views a sample)"
        ways.append(_way(change, fewer, seconds_per_view, note="each view is seen more often"))
    for change, note, changed in (
        ("codec: int8", "cosine to the float32 values about 0.9999", _as_int8),
        (f"logits: top_k, k: {KEPT_CLASSES}", "the rest of the classes share what is left", _as_top_k),
        ("spatial.pool: 2", "a quarter of the places", _as_pooled),
    ):
        others = [
            replace(volume, codings={name: changed(name, coding) for name, coding in volume.codings.items()})
            for volume in volumes
        ]
        if _bytes(others) < _bytes(volumes):
            ways.append(_way(change, others, seconds_per_view, note=note))
    return ways


def _way(
    change: str, volumes: Sequence[TargetVolume], seconds_per_view: Mapping[str, float], *, note: str
) -> Alternative:
    known = all(volume.teacher in seconds_per_view for volume in volumes)
    hours = sum(volume.num_views * seconds_per_view[volume.teacher] for volume in volumes) / 3600 if known else None
    num_views = sum(volume.num_views for volume in volumes)
    return Alternative(change=change, num_bytes=_bytes(volumes), num_views=num_views, hours=hours, note=note)


def _bytes(volumes: Sequence[TargetVolume]) -> int:
    return sum(volume.num_bytes for volume in volumes)


def _with_share(volume: TargetVolume, kept: int, of: int) -> TargetVolume:
    """With `kept` of every `of` views of training; evaluation has one view, which stays."""
    if not volume.is_training:
        return volume
    return replace(volume, num_views=volume.num_views * kept // of, num_missing_views=0)


def _as_int8(name: str, coding: Coding) -> Coding:
    fits = name != "logits" and coding.codec in WIDE_CODECS and coding.explained_variance is None
    return replace(coding, codec="int8") if fits else coding


def _as_top_k(name: str, coding: Coding) -> Coding:
    if name != "logits" or coding.codec == "top_k" or coding.shape[-1] < MIN_CLASSES_FOR_TOP_K:
        return coding
    return replace(coding, codec="top_k", k=KEPT_CLASSES, temperatures=USUAL_TEMPERATURES)


def _as_pooled(name: str, coding: Coding) -> Coding:
    if name != "spatial" or any(side % 2 for side in coding.shape[:2]):
        return coding
    height, width, channels = coding.shape
    return replace(coding, shape=(height // 2, width // 2, channels))
