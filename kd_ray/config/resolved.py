"""The resolved recipe as it is kept beside a run's outputs, with the versions that ran it."""

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version

import yaml

from kd_ray.config.recipe import Recipe

PACKAGES = (
    "kd-ray",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "zarr",
    "pyarrow",
    "numpy",
    "pillow",
    "opencv-python-headless",
)


def recipe_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults included; loads back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 (hex) of the resolved recipe."""
    return hashlib.sha256(json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
