"""Classification models of torchvision."""

import difflib

from torch import nn

from kd_ray.config.networks import TorchvisionModel
from kd_ray.errors import ModelError


def build_torchvision(config: TorchvisionModel, *, num_classes: int | None) -> nn.Module:
    """The network; where it comes pretrained for another number of classes, with a new classifier.

    Raises:
        ModelError: torchvision has no such model or weights, or refuses the arguments.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if config.name not in names:
        close = ", ".join(difflib.get_close_matches(config.name, names, n=5))
        hint = f"did you mean {close}?" if close else "torchvision.models.list_models() gives the names."
        raise ModelError(f"torchvision has no classification model {config.name!r}; {hint}")
    arguments = dict(config.args)
    if config.pretrained is not None:
        arguments["weights"] = _weights(config)
    elif num_classes is not None:
        arguments["num_classes"] = num_classes
    try:
        module = models.get_model(config.name, **arguments)
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise ModelError(
            f"torchvision cannot create {config.name!r} with {arguments}: {type(error).__name__}: {error}."
        ) from error
    if config.pretrained is not None and num_classes is not None:
        _with_classes(module, num_classes, title=config.title)
    assert isinstance(module, nn.Module)
    return module


def _weights(config: TorchvisionModel) -> object:
    from torchvision import models

    known = models.get_model_weights(config.name)
    if config.pretrained not in known.__members__:
        raise ModelError(
            f"torchvision has no weights {config.pretrained!r} for {config.name}; it has "
            f"{', '.join(known.__members__)}."
        )
    return known[config.pretrained]


def last_linear(module: nn.Module) -> str | None:
    """The name of the classifier: the last linear layer."""
    names = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    return names[-1] if names else None


def _with_classes(module: nn.Module, num_classes: int, *, title: str) -> None:
    name = last_linear(module)
    if name is None:
        raise ModelError(f"{title} has no linear classifier to replace; train it from scratch, or take another model.")
    old = module.get_submodule(name)
    assert isinstance(old, nn.Linear)
    if old.out_features != num_classes:
        module.set_submodule(name, nn.Linear(old.in_features, num_classes))
