"""A frozen teacher: rendered pixels in, float32 targets out.

Shape letters: B batch, C channels, H and W pixels or grid, D width, K classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_ray.config.models import ImportedModel
from kd_ray.config.teacher import Precision, Teacher
from kd_ray.errors import ExtractionError, ModelError, WeightsError
from kd_ray.models import OutputModel, build_model, load_weights, network_fingerprint, to_input, without_pretrained
from kd_ray.models.pixels import to_tensor
from kd_ray.teachers.memory import Slices

DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
NUM_NAMED = 8


class NotFinite(ExtractionError):
    """Values of an output that may not be stored; `rows` of the batch have them."""

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows

    def __reduce__(self) -> tuple[type["NotFinite"], tuple[str, tuple[int, ...]]]:
        return NotFinite, (str(self), self.rows)


def load_teacher(config: Teacher, *, num_classes: int | None, weights_uri: str | None) -> nn.Module:
    """The teacher's network in float32 on the CPU; `weights_uri` (finetuned weights) goes before `config.weights`.

    Raises:
        ModelError: the network cannot be built.
        WeightsError: the weights do not fit, or there are none.
    """
    if isinstance(config.model, ImportedModel):
        raise ModelError(
            f"{config.model.title}: there are only its features, no network that could compute others. Import what is "
            "missing (kd-ray cache import), or give the network with its weights."
        )
    uri = weights_uri or config.weights
    module = build_model(config.model if uri is None else without_pretrained(config.model), num_classes=num_classes)
    if uri is not None:
        load_weights(module, uri)
    elif not config.model.comes_with_weights:
        raise WeightsError(
            "this teacher has no weights yet, and random ones teach nothing; run the finetune stage first, "
            "or give weights or model.pretrained in the recipe."
        )
    return module


def pooled(x_BHWD: Tensor, factor: int) -> Tensor:
    """Means of `factor` x `factor` places of the grid, which `factor` divides."""
    batch, height, width, channels = x_BHWD.shape
    blocks = x_BHWD.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return blocks.mean(dim=(2, 4))


def _whole(module: nn.Module, config: Teacher) -> nn.Module:
    """The network with the outputs that `config` asks for as its forward pass."""
    outputs = config.outputs
    return OutputModel(
        module,
        names=outputs.names(),
        spatial_stage=outputs.spatial_stage,
        summary_from=outputs.summary_from,
        spatial_from=outputs.spatial_from,
    ).eval()


class FrozenTeacher:
    """`config`'s network in evaluation mode, without gradients, in its precision, on `device`.

    `weights_fingerprint` is that of the float32 weights as loaded, before any cast, and of the code that the recipe
    names beside them; `num_forwards` counts views.
    """

    def __init__(
        self,
        config: Teacher,
        *,
        num_classes: int | None,
        weights_uri: str | None,
        device: str | torch.device,
        batch_size: int,
    ) -> None:
        module = load_teacher(config, num_classes=num_classes, weights_uri=weights_uri)
        self.weights_fingerprint = network_fingerprint(config.model, module)
        self.num_forwards = 0
        self._config = config
        self._device = torch.device(device)
        self._slices = Slices(batch_size)
        self._dtype = DTYPES[config.precision]
        module = module.eval().requires_grad_(requires_grad=False).to(device=self._device, dtype=self._dtype)
        self._module = module.to(memory_format=torch.channels_last) if config.channels_last else module
        self._outputs = _whole(self._module, config)

    @property
    def module(self) -> nn.Module:
        """The frozen network."""
        return self._module

    @property
    def batch_size(self) -> int:
        """Views that go through the network at once: what was asked for, or what memory turned out to hold."""
        return self._slices.size

    def __call__(self, pixels_BHWC: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The configured outputs [B, ...] as float32, computed in slices of the batch size.

        Raises:
            NotFinite: an output is not finite.
            ExtractionError: memory does not hold a single view.
        """
        slices = self._slices.through(self._forward, pixels_BHWC)
        outputs = {name: np.concatenate([part[name] for part in slices]) for name in self._config.outputs.names()}
        for name, output in outputs.items():
            self._check_finite(name, output)
        return outputs

    @torch.inference_mode()
    def _forward(self, pixels_BHWC: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        x_BCHW = to_input(to_tensor(pixels_BHWC).to(self._device), self._config.input, dtype=self._dtype)
        if self._config.channels_last:
            x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
        outputs = self._config.outputs
        # cuDNN would take TF32 for float32 and pick its algorithm by timing: neither is in the target's fingerprint.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            found = self._outputs(x_BCHW)
        values = {name: output.float() for name, output in found.items()}
        pool = outputs.spatial.pool if outputs.spatial is not None else None
        if pool is not None:
            values["spatial"] = pooled(values["spatial"], pool)
        done = {name: output.cpu().numpy() for name, output in values.items()}
        self.num_forwards += len(pixels_BHWC)
        return done

    def _check_finite(self, name: str, output: NDArray[np.float32]) -> None:
        rows = np.flatnonzero(~np.isfinite(output).reshape(len(output), -1).all(axis=1))
        if rows.size == 0:
            return
        named = ", ".join(map(str, rows[:NUM_NAMED])) + (", …" if rows.size > NUM_NAMED else "")
        stage = self._config.outputs.spatial_stage if name == "spatial" else None
        layer = f"{name!r}" if stage is None else f"{name!r} (stage {stage})"
        raise NotFinite(
            f"teacher output {layer} is not finite in {rows.size} of {len(output)} rows ({named}) at precision "
            f"{self._config.precision}. Use a wider precision (bfloat16, float32), or check the weights.",
            tuple(rows.tolist()),
        )
