"""A cache with views and two outputs of one teacher on them, whose values are those of the tiny cache; no teacher runs.

Its view set is that of nothing real: rows without operations, digests made up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kd_ray.cache.codecs import Coding
from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec, output_spec, target_set_spec
from kd_ray.cache.target_set import Output, SampleIds, open_output
from kd_ray.cache.units import Unit
from kd_ray.cache.view_store import ViewStore, open_view_store
from kd_ray.views import FlipParams, Proof, ViewRow
from tests.support.tiny_cache import IDS, SHAPE, UNIT, unit, values_of

UNITS = (UNIT, unit(2, 4))


@dataclass(frozen=True)
class WholeCache:
    """`views` and `outputs` ("summary", float32, and "logits", int8), every unit of UNITS committed."""

    uri: str
    views: ViewStore
    outputs: dict[str, Output]

    def paths(self) -> list[str]:
        """Below the cache, as its catalog names them."""
        return [f"views/{self.views.spec.folder}", *map(self.path_of, self.outputs)]

    def path_of(self, output: str) -> str:
        """Of one output."""
        return f"targets/{self.outputs[output].target_set.folder}/{self.outputs[output].spec.folder}"


def view_rows(of: Unit, sample_ids: SampleIds = IDS) -> list[ViewRow]:
    return [
        ViewRow(
            sample_id=int(sample_id),
            view_index=view,
            params=(FlipParams(flipped=bool(row % 2)),),
            proof=Proof(digest=bytes([view, row]) * 8, thumbnail=bytes([row, view]) * 96),
        )
        for view in range(of.view_start, of.view_stop)
        for row, sample_id in enumerate(sample_ids)
    ]


SPECS = {
    "summary": output_spec("summary", coding=Coding(codec="float32", shape=SHAPE), stage=None),
    "logits": output_spec("logits", coding=Coding(codec="int8", shape=SHAPE), stage=None),
}


def write_cache(
    uri: str,
    *,
    units: Sequence[Unit] = UNITS,
    teacher: str = "teacher",
    weights: str = "w0",
    seed: int = 0,
    outputs: Sequence[str] = tuple(SPECS),
) -> WholeCache:
    view_set = Spec(
        name="plain-train",
        identity={
            "corpus_id": "c0",
            "policy": {"operations": []},
            "seed": seed,
            "split": "train",
            "digest_size_px": [64, 64],
        },
    )
    target_set = target_set_spec(
        teacher, teacher={"weights": weights}, view_set_fingerprint=view_set.fingerprint, corpus_id="c0"
    )
    views = open_view_store(uri, view_set, grid=Grid(unit_row_groups=2, unit_views=2))
    opened = {name: open_output(uri, target_set, SPECS[name], create=True) for name in outputs}
    for output in opened.values():
        if output.must_be_calibrated():
            output.calibrate(values_of(units[0]))
    for each in units:
        views.write(each, view_rows(each), IDS, attempt="a0")
        for output in opened.values():
            output.write(each, values_of(each), IDS, attempt="a0")
    return WholeCache(uri, views, opened)
