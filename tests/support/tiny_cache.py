"""A cache of a few rows whose values follow from sample id, view and channel alone, so that any mix-up shows."""

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.codecs import Coding
from kd_ray.cache.spec import Spec, output_spec, target_set_spec
from kd_ray.cache.target_set import Output, SampleIds, open_output
from kd_ray.cache.units import Span, Unit
from kd_ray.config.outputs import Codec

SHAPE = (3,)
IDS = np.array([7, 2**64 - 1, 12, 3, 2**63], dtype=np.uint64)


def unit(
    view_start: int = 0, view_stop: int = 2, *, shard: str = "train-00000", groups: tuple[int, int] = (0, 2)
) -> Unit:
    return Unit(
        span=Span(shard=shard, group_start=groups[0], group_stop=groups[1]), view_start=view_start, view_stop=view_stop
    )


UNIT = unit()


def values_of(of: Unit, sample_ids: SampleIds = IDS, *, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """[view, sample, *shape]: multiples of 1/8 below 2048, exact in float16."""
    views = [
        [np.arange(np.prod(shape)) + 8 * int(sample_id % np.uint64(13)) + 128 * view for sample_id in sample_ids]
        for view in range(of.view_start, of.view_stop)
    ]
    return (np.array(views, dtype=np.float32) / 8).reshape(of.num_views, len(sample_ids), *shape)


def target_set(**teacher: object) -> Spec:
    return target_set_spec(
        "teacher", teacher={"weights": "w0", **teacher}, view_set_fingerprint="v" * 64, corpus_id="c0"
    )


def summary(*, codec: Codec = "float16", shape: tuple[int, ...] = SHAPE) -> Spec:
    return output_spec("summary", coding=Coding(codec=codec, shape=shape), stage=None)


def new_output(cache_uri: str, *, codec: Codec = "float16", shape: tuple[int, ...] = SHAPE) -> Output:
    return open_output(cache_uri, target_set(), summary(codec=codec, shape=shape), create=True)
