"""The identity covers what decides a target's bytes, and nothing that only changes speed or names a source."""

import json
from typing import Any

import pytest

from kd_ray.config.teacher import Teacher
from kd_ray.storage import digest_of_json
from kd_ray.teachers import teacher_identity

BASE: dict[str, Any] = {
    "model": {"kind": "timm", "name": "test_vit", "args": {"img_size": 64}},
    "weights": "a.safetensors",
    "input": {"size_px": (64, 64)},
    "outputs": {"summary": {}},
}


def digest(changes: dict[str, Any], *, fingerprint: str = "f", num_classes: int | None = 10) -> str:
    config = Teacher.model_validate(BASE | changes)
    return digest_of_json(teacher_identity(config, weights_fingerprint=fingerprint, num_classes=num_classes))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": BASE["model"] | {"name": "test_vit2"}},
        {"model": BASE["model"] | {"args": {"img_size": 32}}},
        {"input": {"size_px": (32, 64)}},
        {"input": {"size_px": (64, 64), "mean": (0.5, 0.5, 0.5)}},
        {"input": {"size_px": (64, 64), "std": (0.5, 0.5, 0.5)}},
        {"input": {"size_px": (64, 64), "interpolation": "bilinear"}},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_changes_with_what_decides_bytes(changes: dict[str, Any]) -> None:
    assert digest(changes) != digest({})


def test_changes_with_the_weights_and_the_classes() -> None:
    assert len({digest({}), digest({}, fingerprint="g"), digest({}, num_classes=None)}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"resources": {"batch_size_per_worker": 8, "max_workers": 3}},
        {"weights": "elsewhere.pt"},
        {"weights": None, "model": BASE["model"] | {"pretrained": True}},
        {"outputs": {"summary": {"codec": "float32"}, "logits": {}}},
    ],
    ids=str,
)
def test_does_not_change_with_speed_source_or_storage(changes: dict[str, Any]) -> None:
    assert digest(changes) == digest({})


def test_survives_json() -> None:
    identity = teacher_identity(Teacher.model_validate(BASE), weights_fingerprint="f", num_classes=10)
    assert json.loads(json.dumps(identity)) == identity
