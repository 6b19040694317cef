"""Networks that functions give: of a repository's hubconf.py, or of a team's own package."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from kd_ray.config.networks import PythonModel, TorchHubModel
from kd_ray.errors import ModelError


def build_from_function(config: PythonModel, *, num_classes: int | None) -> nn.Module:
    """What the function gives.

    Raises:
        ModelError: it cannot be imported, refuses its arguments, or gives no network.
    """
    module_name, _, name = config.function.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model.function: {config.function} cannot be imported: {error}. Give package.module:function of something "
            "that is installed, or whose folder is in PYTHONPATH, here and where the workers run."
        ) from error
    arguments = dict(config.args)
    if num_classes is not None and _takes(function, "num_classes"):
        arguments = {"num_classes": num_classes, **arguments}
    return _called(function, arguments, title=config.function)


def build_from_repository(config: TorchHubModel, *, num_classes: int | None) -> nn.Module:
    """What the function `entry` of the repository's hubconf.py gives; this runs the repository's code.

    Raises:
        ModelError: there is no such repository or function, or it refuses its arguments.
    """
    if not (Path(config.repository) / "hubconf.py").is_file():
        raise ModelError(
            f"model.repository: {config.repository} has no hubconf.py. Give the folder of a cloned repository that "
            "has one; nothing is downloaded."
        )
    entries = _entries(config.repository)
    if config.entry not in entries:
        raise ModelError(
            f"model.entry: {config.repository}/hubconf.py has no {config.entry!r}; it has {', '.join(sorted(entries))}."
        )
    function = entries[config.entry]
    arguments = dict(config.args)
    if _takes(function, "pretrained"):
        arguments["pretrained"] = config.pretrained
    elif config.pretrained:
        raise ModelError(f"model.pretrained: {config.entry} takes no `pretrained`. Give weights instead.")
    if num_classes is not None and _takes(function, "num_classes"):
        arguments = {"num_classes": num_classes, **arguments}
    return _called(function, arguments, title=config.title)


def _entries(repository: str) -> dict[str, Callable[..., Any]]:
    """Public functions of hubconf.py, which is run with the repository at the head of the search path, as by torch.hub.

    The path stays: such functions import from their repository when they are called.
    """
    if repository not in sys.path:
        sys.path.insert(0, repository)
    spec = importlib.util.spec_from_file_location("hubconf", Path(repository) / "hubconf.py")
    assert spec is not None, "the file is there"
    assert spec.loader is not None, "a file has a loader"
    hubconf = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(hubconf)
    except ImportError as error:
        raise ModelError(
            f"model.repository: {repository}/hubconf.py cannot be imported: {error}. Install what it needs."
        ) from error
    return {name: each for name, each in vars(hubconf).items() if callable(each) and not name.startswith("_")}


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _called(function: Callable[..., Any], arguments: dict[str, Any], *, title: str) -> nn.Module:
    try:
        module = function(**arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
        raise ModelError(f"{title} fails with {arguments}: {type(error).__name__}: {error}.") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{title} gives {type(module).__name__}, not a torch.nn.Module; return the network.")
    return module
