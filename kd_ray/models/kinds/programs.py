"""Exported programs: of torch.export (.pt2), and TorchScript. Neither may bring code that Python would run.

torch.export.load unpickles what an archive marks as pickled and evaluates its symbolic expressions, so both are looked
at before it is called. TorchScript is read by a reader of its own, which knows tensors and the program's classes alone.
What is left is a program over PyTorch's operators: it computes, but take it from people you trust.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config.networks import ExportedModel
from kd_ray.errors import ModelError, WeightsError
from kd_ray.storage import open_storage

CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
SAFE_EXPRESSION = re.compile(r"[A-Za-z0-9_'=,() +*/-]*")
# what torch.export writes shapes with
SYMBOLIC_CALLS = frozenset(
    {"Symbol", "Integer", "Add", "Mul", "Pow", "Mod", "Max", "Min", "FloorDiv", "CeilDiv", "CleanDiv", "PythonMod"}
    | {"ModularIndexing", "Where", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality"}
    | {"StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"}
)
OPERATORS = ("torch.ops.", "torch.sym_", "_operator.", "math.", "#torch.")


class ExportedNetwork(nn.Module):
    """A loaded program. It is as it was exported: `eval()` and `train()` change nothing in it."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Nothing but the flag: a program has no modes."""
        self.training = mode
        return self

    def forward(self, x_BCHW: Tensor) -> Any:
        """What the program gives."""
        return self.program(x_BCHW)


def load_program(config: ExportedModel) -> nn.Module:
    """The program on the CPU.

    Raises:
        WeightsError: there is no such file, it is cut, or it would execute code.
        ModelError: this PyTorch cannot read it.
    """
    data = read_program(config)
    is_export = config.program.endswith(".pt2")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if is_export:
                _refuse_code(archive, uri=config.program)
            elif not any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(
                    f"{config.program}: not a TorchScript program but a checkpoint. Give it as weights, with the model "
                    "that it is for, or save the program with torch.jit.save."
                )
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{config.program}: not a whole program ({error}); copy it again.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, its files are not gone
            if is_export:
                program: nn.Module = torch.export.load(io.BytesIO(data)).module()
            else:
                program = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, AssertionError, KeyError) as error:
        raise ModelError(
            f"{config.program}: PyTorch {torch.__version__} cannot read this program: {str(error).splitlines()[0]} "
            "Export it with this version."
        ) from error
    return ExportedNetwork(program)


def read_program(config: ExportedModel) -> bytes:
    """The file's bytes.

    Raises:
        WeightsError: there is no such file.
    """
    folder, _, name = config.program.rpartition("/")
    try:
        return open_storage(folder or ("/" if config.program.startswith("/") else ".")).read(name)
    except FileNotFoundError as error:
        raise WeightsError(f"{config.program}: no such file; check `model.program` in the recipe.") from error


def _refuse_code(archive: zipfile.ZipFile, *, uri: str) -> None:
    for name in archive.namelist():
        found = _code_in(archive, name)
        if found is not None:
            raise WeightsError(
                f"{uri}: {name} holds {found}, and loading it would execute code, so it was not loaded. Export the "
                "network again with torch.export.save, without custom objects, or give its weights as .safetensors."
            )


def _code_in(archive: zipfile.ZipFile, name: str) -> str | None:
    """What Python would run on loading this member of the archive; None where there is nothing."""
    if "/aotinductor/" in name or name.endswith(".so"):
        return "compiled code"
    base = name.rpartition("/")[2]
    if base.startswith(("custom_obj_", "opaque_obj_")):
        return "an object of its own class"
    if name.endswith(".json"):
        return next(_code_in_document(json.loads(archive.read(name))), None)
    if name.endswith(".pt"):
        return _code_in_pickle(archive.read(name))
    return None


def _code_in_pickle(data: bytes) -> str | None:
    if not data:
        return None
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        return "more than tensors"
    return None


def _code_in_document(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _code_in_document(each)
    if not isinstance(value, dict):
        return
    if value.get("use_pickle"):
        yield "pickled tensors"
    for key, inner in value.items():
        if key == "expr_str" and not _is_plain(inner):
            yield f"the expression {inner!r}"
        elif key == "target" and isinstance(inner, str) and "." in inner and not _is_operator(value, inner):
            yield f"a call of {inner}"
        else:
            yield from _code_in_document(inner)


def _is_plain(expression: Any) -> bool:
    """Whether it is made of symbols, numbers and the calls that shapes are written with: it will be evaluated."""
    return (
        isinstance(expression, str)
        and SAFE_EXPRESSION.fullmatch(expression) is not None
        and "__" not in expression
        and set(CALL.findall(expression)) <= SYMBOLIC_CALLS
    )


def _is_operator(node: dict[str, Any], target: str) -> bool:
    """Of a node of the graph what it calls; elsewhere `target` is the name of a weight."""
    is_node = "inputs" in node and "outputs" in node
    return not is_node or (target.startswith(OPERATORS) and "__" not in target)
