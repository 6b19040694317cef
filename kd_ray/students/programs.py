"""A module as programs that need none of its code, ONNX and torch.export, each checked against PyTorch."""

import io
from collections.abc import Callable, Sequence

import onnxruntime
import torch
from torch import Tensor, nn

from kd_ray.errors import ModelError

# Sums in another order differ by about 1e-6 of the outputs' scale in float32; a wrong graph by about 1.
TOLERANCE = 1e-4
TRACED_BATCH = 2
CHECKED_BATCH = 3

Run = Callable[[Tensor], Sequence[Tensor]]


def onnx_program(module: nn.Module, *, size_px: tuple[int, int], names: Sequence[str], title: str) -> bytes:
    """An ONNX model from "pixels" [B, 3, H, W], any B, to the outputs `names` of `module`.

    Raises:
        ModelError: its graph cannot be expressed.
    """
    try:
        program = torch.onnx.export(
            module,
            (random_input(size_px, batch=TRACED_BATCH),),
            dynamo=True,
            input_names=["pixels"],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(
            f"{title} cannot be exported to ONNX: {error}. Set onnx: false, or use another student."
        ) from error
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def run_onnx(program: bytes) -> Run:
    """The ONNX model on CPU, as a function of pixels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    return lambda x_BCHW: [torch.from_numpy(each) for each in session.run(None, {"pixels": x_BCHW.numpy()})]


def torch_program(module: nn.Module, *, size_px: tuple[int, int], title: str) -> bytes:
    """A program of `torch.export` from pixels [B, 3, H, W], any B, to what `module` gives.

    Raises:
        ModelError: its graph cannot be expressed.
    """
    try:
        program = torch.export.export(
            module,
            (random_input(size_px, batch=TRACED_BATCH),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except (RuntimeError, torch._dynamo.exc.UserError) as error:
        raise ModelError(
            f"{title} cannot be exported by torch.export: {str(error).splitlines()[0]}. Set torch_export: false, or "
            "use another student."
        ) from error
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def run_torch(program: bytes) -> Run:
    """The program as it is loaded again, as a function of pixels."""
    loaded = torch.export.load(io.BytesIO(program)).module()

    def run(x_BCHW: Tensor) -> Sequence[Tensor]:
        found = loaded(x_BCHW)
        return [found] if isinstance(found, Tensor) else found

    return run


@torch.inference_mode()
def checked_difference(module: nn.Module, run: Run, *, size_px: tuple[int, int], title: str, what: str) -> float:
    """Largest absolute difference between what `run` and `module` give, on a batch of another size than was traced.

    Raises:
        ModelError: it is more than TOLERANCE of the outputs' scale.
    """
    x_BCHW = random_input(size_px, batch=CHECKED_BATCH)
    given = module(x_BCHW)
    wanted = [given] if isinstance(given, Tensor) else list(given)
    largest = 0.0
    for found, each in zip(run(x_BCHW), wanted, strict=True):
        difference, scale = float((found - each).abs().max()), float(each.abs().max())
        if not difference <= TOLERANCE * scale:  # so that NaN fails
            raise ModelError(
                f"{title}: the outputs of {what} differ from PyTorch's by {difference:.3g}, more than {TOLERANCE} of "
                f"their scale {scale:.3g}; nothing was written. Leave this kind of export out, or use another student."
            )
        largest = max(largest, difference)
    return largest


def random_input(size_px: tuple[int, int], *, batch: int) -> Tensor:
    """Normal pixels [B, 3, H, W], always the same."""
    return torch.randn(batch, 3, *size_px, generator=torch.Generator().manual_seed(0))
