"""Weights: read from any URI without executing anything, written as safetensors, and identified by their bytes."""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kd_ray.errors import WeightsError
from kd_ray.storage import Storage, join, open_storage

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
STUDENT_FILE = "model.safetensors"  # in the folder of a finished run, and in that of an export
WRAPPER_KEYS = ("state_dict", "model")
MODULE_PREFIX = "module."
# Counts training batches and decides no output; many published files lack it.
IGNORED_SUFFIX = "num_batches_tracked"
HALF_DTYPES = (torch.float16, torch.bfloat16)
NUM_NAMED = 3


def load_weights(module: nn.Module, uri: str) -> None:
    """Load `uri` into `module`, all keys or none; half-precision floats are cast to the module's dtype.

    `.safetensors`, the folder of a student with such a file (`weights_file`), or a checkpoint of tensors read with
    `weights_only`; a `state_dict` or `model` wrapper and a `module.` prefix (DataParallel) are taken off.

    Raises:
        WeightsError: there is no such file, it would execute code, or its keys, shapes or dtypes are not the module's.
    """
    found = _read_tensors(weights_file(uri))
    wanted = module.state_dict()
    problems = _differences(found, wanted)
    if problems:
        raise WeightsError(
            f"{uri} does not fit the model: {'; '.join(problems)}. "
            f"Give the weights of this very architecture and number of classes, or change the model to theirs."
        )
    module.load_state_dict({**wanted, **found})


def weights_file(uri: str) -> str:
    """The file of weights at `uri`: itself, or what a student's run or export has in a folder of that name."""
    if PurePosixPath(uri).suffix in (".safetensors", *PICKLE_SUFFIXES):
        return uri
    return join(uri, STUDENT_FILE) if open_storage(uri).exists(STUDENT_FILE) else uri


def save_weights(module: nn.Module, storage: Storage, name: str) -> None:
    """Write the module's state to `name` as safetensors; tensors shared between modules are written once for each."""
    storage.write(name, weights_bytes(module))


def weights_bytes(module: nn.Module) -> bytes:
    """The module's state as safetensors; equal states give equal bytes."""
    return safetensors.torch.save({name: _own_copy(tensor) for name, tensor in module.state_dict().items()})


def state_fingerprint(module: nn.Module) -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes of all weights and buffers but `num_batches_tracked`.

    The same weights have the same fingerprint whatever file, key order or device they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.endswith(IGNORED_SUFFIX):
            continue
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(_own_copy(tensor).reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _read_tensors(uri: str) -> dict[str, Tensor]:
    suffix = PurePosixPath(uri).suffix
    if suffix != ".safetensors" and suffix not in PICKLE_SUFFIXES:
        raise WeightsError(
            f"{uri}: unknown kind of weights {suffix!r}; give .safetensors or {', '.join(PICKLE_SUFFIXES)}, or the "
            f"folder of a finished student, which holds {STUDENT_FILE}."
        )
    folder, _, name = uri.rpartition("/")
    try:
        data = open_storage(folder or ("/" if uri.startswith("/") else ".")).read(name)
    except FileNotFoundError as error:
        raise WeightsError(f"{uri}: no such file; check `weights` in the recipe.") from error
    return _read_safetensors(data, uri=uri) if suffix == ".safetensors" else _read_checkpoint(data, uri=uri)


def _read_safetensors(data: bytes, *, uri: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{uri}: not a whole safetensors file ({error}); copy it again.") from error


def _read_checkpoint(data: bytes, *, uri: str) -> dict[str, Tensor]:
    try:
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{uri}: the file holds more than tensors and loading it would execute code, so it was not loaded "
            f"({str(error).splitlines()[0]}). Save its state_dict alone, best as .safetensors."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise WeightsError(f"{uri}: not a whole PyTorch checkpoint ({error}); copy it again.") from error
    return _unwrapped(content, uri=uri)


def _unwrapped(content: Any, *, uri: str) -> dict[str, Tensor]:
    for key in WRAPPER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"{uri}: expected a mapping of names to tensors, or one under {' or '.join(WRAPPER_KEYS)}; "
            f"got {_description(content)}. Save the model's state_dict alone."
        )
    if content and all(name.startswith(MODULE_PREFIX) for name in content):
        return {name.removeprefix(MODULE_PREFIX): tensor for name, tensor in content.items()}
    return dict(content)


def _description(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    return f"keys {_some([str(key) for key in content])}"


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in found and not name.endswith(IGNORED_SUFFIX)]
    unexpected = [name for name in found if name not in wanted]
    common = [name for name in wanted if name in found]
    shapes = [
        f"{name} is {list(found[name].shape)}, the model has {list(wanted[name].shape)}"
        for name in common
        if found[name].shape != wanted[name].shape
    ]
    dtypes = [
        f"{name} is {found[name].dtype}, the model has {wanted[name].dtype}"
        for name in common
        if not _castable(found[name].dtype, wanted[name].dtype)
    ]
    groups = {"missing": missing, "unexpected": unexpected, "other shape": shapes, "other dtype": dtypes}
    return [f"{len(names)} {what} ({_some(names)})" for what, names in groups.items() if names]


def _castable(found: torch.dtype, wanted: torch.dtype) -> bool:
    return found == wanted or (found in HALF_DTYPES and wanted.is_floating_point)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NUM_NAMED]) + (", …" if len(names) > NUM_NAMED else "")
