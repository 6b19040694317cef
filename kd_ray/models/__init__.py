"""Networks by kind, their weights, their outputs and shapes, their input, and their optimisers."""

from kd_ray.models.build import build_model, without_pretrained
from kd_ray.models.code import code_digest, network_fingerprint
from kd_ray.models.optim import build_optimizer, build_schedule
from kd_ray.models.outputs import OutputModel, model_outputs
from kd_ray.models.pixels import to_input
from kd_ray.models.shapes import output_shapes, parameter_count
from kd_ray.models.weights import load_weights, save_weights, state_fingerprint

__all__ = [
    "OutputModel",
    "build_model",
    "build_optimizer",
    "build_schedule",
    "code_digest",
    "load_weights",
    "model_outputs",
    "network_fingerprint",
    "output_shapes",
    "parameter_count",
    "save_weights",
    "state_fingerprint",
    "to_input",
    "without_pretrained",
]
