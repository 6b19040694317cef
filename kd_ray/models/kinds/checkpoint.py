"""Students of this project, as they were exported."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kd_ray.config.models import StudentNetwork, TimmModel, Trainable
from kd_ray.config.networks import CheckpointModel
from kd_ray.errors import ModelError
from kd_ray.storage import join, open_storage

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
OTHER_KEYS = frozenset({"num_classes", "label_names", "input"})  # what an export tells beside the network
_NETWORK: TypeAdapter[Trainable] = TypeAdapter(StudentNetwork)


def exported_model(config: CheckpointModel) -> tuple[Trainable, int]:
    """The network of an exported student without its weights, and its number of classes.

    Raises:
        ModelError: the folder is not one that a student was exported to.
    """
    try:
        document = json.loads(open_storage(config.uri).read(CONFIG_NAME))
        return _network(document), int(document["num_classes"])
    except FileNotFoundError as error:
        raise ModelError(
            f"model.uri: {config.uri} has no {CONFIG_NAME}. Give the folder of an exported student (out/…/export/NAME)."
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(f"model.uri: {join(config.uri, CONFIG_NAME)} does not describe a student: {error}") from error


def _network(document: dict[str, Any]) -> Trainable:
    if "architecture" in document:  # as timm reads it
        arguments = document["model_args"]
        return TimmModel(kind="timm", name=document["architecture"], args=arguments)
    return _NETWORK.validate_python({key: value for key, value in document.items() if key not in OTHER_KEYS})


def refuse_other_classes(config: CheckpointModel, own: int, wanted: int | None) -> None:
    """Raises ModelError: its classifier is for another number of classes."""
    if wanted not in (None, own):
        raise ModelError(
            f"{config.title}: its classifier has {own} classes, {wanted} are needed. Give a "
            "checkpoint of the same classes, or remove num_classes."
        )
