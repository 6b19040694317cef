"""A small real cache for training loops of one's own: packed images, views and three outputs of a teacher on them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.extraction.plan import KnownTeacher, TargetPlan
from tests.support.tiny_world import POLICY, extract, pack_images, plan_teacher, plan_views, save_teacher, write_images

NUM_VIEWS = 3

Seen = list[tuple[int, int]]


def fill(
    corpus: PackedCorpus,
    teacher: KnownTeacher,
    cache_uri: Path | str,
    *,
    policy: Policy = POLICY,
    kept: KeptFormat | None = None,
) -> TargetPlan:
    """Every unit of the training split committed."""
    views = plan_views(corpus, cache_uri, num_views=NUM_VIEWS, policy=policy, kept=kept)
    plan = plan_teacher(teacher, views, corpus, cache_uri)
    extract(plan)
    return plan


def write_world(folder: Path, *, per_class: int = 20) -> str:
    """Images, corpus, teacher and cache below `folder`; the cache's address."""
    write_images(folder / "images", per_class=per_class)
    corpus = pack_images(folder / "images", folder / "corpus")
    fill(corpus, save_teacher(folder, seed=0), folder / "cache")
    return str(folder / "cache")


def seen(batch: dict[str, Any]) -> Seen:
    """(sample id, view index) of a batch's rows."""
    return list(zip(batch["sample_id"].tolist(), batch["view_index"].tolist(), strict=True))


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Two batches, bit by bit."""
    for (name, one), (also, other) in zip(_tensors(found), _tensors(wanted), strict=True):
        assert name == also
        assert torch.equal(one, other), name


def _tensors(batch: dict[str, Any]) -> list[tuple[str, Tensor]]:
    targets = {f"targets {name}": each for name, each in batch["targets"].items()}
    return sorted(({name: each for name, each in batch.items() if name != "targets"} | targets).items())
