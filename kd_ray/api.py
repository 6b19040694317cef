"""The one call for a notebook: `kd_ray.distill(data=…, teacher=…, student=…, out=…)`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_ray.config.layers import merged
from kd_ray.config.load import recipe_from_values
from kd_ray.errors import RecipeError
from kd_ray.run import make_console, run_recipe

ORIGIN = "kd_ray.distill"
DEFAULT_SIZE_PX = 224
Model = str | Mapping[str, Any]


def distill(
    *,
    data: str | Path | Mapping[str, Any],
    teacher: Model,
    student: Model,
    out: str | Path,
    size_px: int = DEFAULT_SIZE_PX,
    views: int = 4,
    epochs: float = 100,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, float | int | str]:
    """Distil `student` from `teacher` on `data`; returns the numbers of `out/metrics.json`.

    `data` is a folder of images (one sub-folder a class, or images alone), or a `corpus` section. `teacher` and
    `student` are timm names (the teacher with its pretrained weights), or `teacher` and `student` sections of a recipe.
    The losses are KD on the teacher's logits where it is finetuned here or brings weights for these classes, and else a
    cosine distance on its summary features. `overrides` are laid over all that: `{"train": {"num_workers": 2}}`.
    Calling again with the same arguments does only what is not committed yet.

    Raises:
        RecipeError: the arguments do not make a valid recipe; every mistake is listed.
        KdRayError: as `kd_ray.run`.
    """
    values = _values(data, teacher, student, out=str(out), size_px=size_px, views=views, epochs=epochs)
    recipe = recipe_from_values(merged(values, overrides or {}), origins={}, default_origin=ORIGIN)
    report = run_recipe(recipe, console=make_console())
    assert report is not None, "all stages were asked for, so there is a report"
    return dict(report.metrics)


def _values(
    data: str | Path | Mapping[str, Any],
    teacher: Model,
    student: Model,
    *,
    out: str,
    size_px: int,
    views: int,
    epochs: float,
) -> dict[str, Any]:
    size = [size_px, size_px]
    corpus = dict(data) if isinstance(data, Mapping) else {"kind": "folder", "uri": str(data)}
    teacher_section = _teacher(teacher, size)
    learns_logits = "finetune" in teacher_section or "weights" in teacher_section
    return {
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(out).name).strip("-.") or "distill",
        "out": out,
        "corpus": {"packed_uri": f"{out}/corpus", **corpus},
        "labels": {"kind": "all" if learns_logits else "none"},
        "views": {
            "count": views,
            "policy": {
                "name": "weak",
                "operations": [
                    {"kind": "random_resized_crop", "scale": [0.25, 1.0]},
                    {"kind": "horizontal_flip"},
                    {"kind": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.2},
                ],
            },
        },
        "teacher": teacher_section,
        "cache": {"uri": f"{out}/cache"},
        "student": _student(student, size),
        "train": {"epochs": epochs, "losses": _losses(learns_logits)},
    }


def _teacher(teacher: Model, size: Sequence[int]) -> dict[str, Any]:
    if isinstance(teacher, Mapping):
        return {"input": {"size_px": size}, **teacher}
    import timm

    trained_with = timm.get_pretrained_cfg(teacher)
    if trained_with is None:
        raise RecipeError(
            f"teacher: timm {timm.__version__} has no pretrained model {teacher!r}; timm.list_pretrained()."
        )
    return {
        "model": {
            "kind": "timm",
            "name": teacher,
            "pretrained": True,
            "args": {"img_size": list(size)} if trained_with.fixed_input_size else {},
        },
        "input": {
            "size_px": size,
            "mean": trained_with.mean,
            "std": trained_with.std,
            "interpolation": trained_with.interpolation if trained_with.interpolation != "random" else "bicubic",
        },
        "outputs": {"summary": {}},
    }


def _student(student: Model, size: Sequence[int]) -> dict[str, Any]:
    if isinstance(student, Mapping):
        return {"input": {"size_px": size}, **student}
    return {"model": {"kind": "timm", "name": student}, "input": {"size_px": size}}


def _losses(learns_logits: bool) -> list[dict[str, Any]]:
    return [{"kind": "kd"}] if learns_logits else [{"kind": "feature", "output": "summary", "head": {"kind": "mlp"}}]
