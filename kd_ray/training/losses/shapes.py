"""What two tensors that are compared must have in common."""

from torch import Tensor

from kd_ray.errors import TrainingError


def require_same_shape(predicted: Tensor, target: Tensor, *, what: str) -> None:
    if predicted.shape != target.shape:
        raise TrainingError(
            f"student {what} have shape {tuple(predicted.shape)}, the teacher's {tuple(target.shape)}; "
            "a loss needs equal shapes: check the number of classes, or use a feature loss with a head."
        )
