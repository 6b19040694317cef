"""Vision towers of Hugging Face transformers, which is an optional extra."""

from importlib.util import find_spec
from typing import Any

from torch import nn

from kd_ray.config.networks import TransformersModel
from kd_ray.errors import ModelError

VOLATILE_KEYS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash"})


def build_transformers(config: TransformersModel) -> nn.Module:
    """The vision tower; its weights come from safetensors alone, and no code of the repository is run.

    Raises:
        ModelError: transformers is not installed, there is no such model, or weights are missing.
    """
    tower_config = _tower_config(config)
    from transformers import AutoModel

    tower = AutoModel.from_config(tower_config)
    if config.pretrained:
        try:
            tower, found = type(tower).from_pretrained(
                config.name, revision=config.revision, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{config.title}: its weights cannot be loaded: {error}") from error
        missing = sorted(found["missing_keys"])
        if missing:
            raise ModelError(
                f"{config.title}: {len(missing)} weights are missing and would be random ({', '.join(missing[:3])}). "
                "Give a checkpoint that has them."
            )
        tower = tower.float()
    assert isinstance(tower, nn.Module)
    return tower


def tower_document(config: TransformersModel) -> dict[str, Any]:
    """What decides the architecture, as JSON."""
    document: dict[str, Any] = _tower_config(config).to_dict()
    return {key: value for key, value in document.items() if key not in VOLATILE_KEYS}


def _tower_config(config: TransformersModel) -> Any:
    if find_spec("transformers") is None:
        raise ModelError("model.kind: transformers is not installed. Install it: pip install 'kd-ray[transformers]'.")
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(config.name, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{config.title}: its configuration cannot be read: {error}") from error
    return getattr(found, "vision_config", found)
