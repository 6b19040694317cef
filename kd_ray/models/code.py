"""What of a network is in files that a recipe names beside its weights: their digest belongs to its identity."""

import hashlib
import importlib.util
from pathlib import Path

from torch import nn

from kd_ray.config.models import TeacherModel
from kd_ray.config.networks import CheckpointModel, ExportedModel, PythonModel, TorchHubModel, TransformersModel
from kd_ray.errors import ModelError
from kd_ray.models.weights import state_fingerprint
from kd_ray.storage import digest_of_json


def network_fingerprint(config: TeacherModel, module: nn.Module) -> str:
    """SHA-256 (hex) of the weights, and where files decide what is computed with them, of those too."""
    weights = state_fingerprint(module)
    code = code_digest(config)
    return weights if code is None else digest_of_json({"weights": weights, "code": code})


def code_digest(config: TeacherModel) -> str | None:
    """SHA-256 (hex) of the code, the program or the configuration that the model is read from; None where kd_ray knows
    it by its name.

    Of a function it is that of the file of its module, not of what this imports; of a repository, of all its Python.

    Raises:
        ModelError: there is no such file.
    """
    match config:
        case PythonModel():
            return hashlib.sha256(_module_file(config).read_bytes()).hexdigest()
        case TorchHubModel():
            return _python_digest(Path(config.repository))
        case ExportedModel():
            from kd_ray.models.kinds.programs import read_program

            return hashlib.sha256(read_program(config)).hexdigest()
        case CheckpointModel():
            from kd_ray.models.kinds.checkpoint import exported_model

            model, num_classes = exported_model(config)
            return digest_of_json({"model": model.model_dump(mode="json"), "num_classes": num_classes})
        case TransformersModel():
            from kd_ray.models.kinds.transformers import tower_document

            return digest_of_json(tower_document(config))
        case _:
            return None


def _module_file(config: PythonModel) -> Path:
    name = config.function.partition(":")[0]
    try:
        found = importlib.util.find_spec(name)
    except ImportError:
        found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise ModelError(
            f"model.function: there is no module {name!r} here. Install it, or put its folder into PYTHONPATH, "
            "here and where the workers run."
        )
    return Path(found.origin)


def _python_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*.py") if ".git" not in path.parts)
    return digest_of_json(
        {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    )
