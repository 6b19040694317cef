"""What makes a teacher this teacher: all that decides a target's bytes, and nothing that only changes speed."""

from typing import Any

from kd_ray.config.teacher import Teacher


def teacher_identity(config: Teacher, *, weights_fingerprint: str, num_classes: int | None) -> dict[str, Any]:
    """JSON-able identity, to be hashed into the fingerprint of a target set.

    Of an imported teacher `weights_fingerprint` is a digest of its features.

    Where weights and code came from (`weights`, `finetune`, the model's `source_fields`) is left out: their own
    fingerprint says more.
    Which outputs are stored, and how, is not the teacher's: each output has a fingerprint of its own.
    """
    return {
        "model": config.model.model_dump(mode="json", exclude=set(config.model.source_fields)),
        "num_classes": num_classes,
        "weights": weights_fingerprint,
        "input": config.input.model_dump(mode="json", exclude={"kind_sizes_px"}),
        "precision": config.precision,
    }
