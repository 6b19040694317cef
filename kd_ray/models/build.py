"""From a model's configuration to a network."""

import difflib
from typing import Any, assert_never

from torch import nn

from kd_ray.config.models import CifarResNet as CifarResNetConfig
from kd_ray.config.models import Model, TimmModel
from kd_ray.config.networks import (
    CheckpointModel,
    ExportedModel,
    PythonModel,
    TorchHubModel,
    TorchvisionModel,
    TransformersModel,
)
from kd_ray.errors import ModelError
from kd_ray.models.cifar_resnet import NUM_CLASSES, CifarResNet
from kd_ray.models.kinds.checkpoint import WEIGHTS_NAME, exported_model, refuse_other_classes
from kd_ray.models.kinds.functions import build_from_function, build_from_repository
from kd_ray.models.kinds.programs import load_program
from kd_ray.models.kinds.torchvision import build_torchvision
from kd_ray.models.kinds.transformers import build_transformers
from kd_ray.models.weights import load_weights
from kd_ray.storage import join


def build_model(config: Model, *, num_classes: int | None) -> nn.Module:
    """The network, with random weights unless it comes with its own; `num_classes` None keeps the model's own number.

    Raises:
        ModelError: there is no such network, it refuses its arguments, or its pretrained weights cannot be had.
        WeightsError: the weights that it comes with cannot be loaded safely.
    """
    match config:
        case TimmModel():
            return _build_timm(config, num_classes=num_classes)
        case CifarResNetConfig():
            return CifarResNet(config.depth, num_classes=NUM_CLASSES if num_classes is None else num_classes)
        case TorchvisionModel():
            return build_torchvision(config, num_classes=num_classes)
        case TorchHubModel():
            return build_from_repository(config, num_classes=num_classes)
        case TransformersModel():
            return build_transformers(config)
        case ExportedModel():
            return load_program(config)
        case CheckpointModel():
            return _build_checkpoint(config, num_classes=num_classes)
        case PythonModel():
            return build_from_function(config, num_classes=num_classes)
        case _:
            assert_never(config)


def without_pretrained(config: Model) -> Model:
    """The same network with nothing downloaded, for where weights are loaded over it at once."""
    match config:
        case TimmModel() | TorchHubModel() | TransformersModel():
            return config.model_copy(update={"pretrained": False})
        case TorchvisionModel():
            return config.model_copy(update={"pretrained": None})
        case _:
            return config


def _build_checkpoint(config: CheckpointModel, *, num_classes: int | None) -> nn.Module:
    model, own = exported_model(config)
    refuse_other_classes(config, own, num_classes)
    module = build_model(without_pretrained(model), num_classes=own)
    load_weights(module, join(config.uri, WEIGHTS_NAME))
    return module


def _build_timm(config: TimmModel, *, num_classes: int | None) -> nn.Module:
    import timm  # 4 s, torchvision included: only where a timm model is built

    is_registered = ":" not in config.name  # else hf-hub: or local-dir:, which name their architecture themselves
    if is_registered and not timm.is_model(config.name):
        raise ModelError(f"timm {timm.__version__} has no model {config.name!r}; {_suggestion(config.name)}")
    if num_classes is not None and "num_classes" in config.args:
        raise ModelError(
            f"{config.name}: args has num_classes={config.args['num_classes']!r}, but the number of classes comes from "
            f"the corpus ({num_classes}); remove it from args."
        )
    arguments: dict[str, Any] = dict(config.args)
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    try:
        model = timm.create_model(config.name, pretrained=config.pretrained, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
        raise ModelError(
            f"timm cannot create {config.name!r} with pretrained={config.pretrained}, {arguments}: "
            f"{type(error).__name__}: {error}."
        ) from error
    assert isinstance(model, nn.Module)
    return model


def _suggestion(name: str) -> str:
    import timm  # 4 s, torchvision included: only where a timm model is built

    architecture = name.split(".", maxsplit=1)[0]
    close = difflib.get_close_matches(architecture, timm.list_models(), n=5)
    return f"did you mean {', '.join(close)}?" if close else "timm.list_models() gives the names."
