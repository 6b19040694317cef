"""Which network, with which weights, fed how: shared by teachers and students."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.networks import (
    CheckpointModel,
    ExportedModel,
    Network,
    PythonModel,
    TorchHubModel,
    TorchvisionModel,
    TransformersModel,
)
from kd_ray.config.views import Interpolation, Policy, SizePx

Channels = tuple[float, float, float]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class TimmModel(Network):
    """Any model of timm by its name; `args` are passed to `timm.create_model`."""

    source_fields = frozenset({"pretrained"})
    kind: Literal["timm"]
    name: str
    pretrained: bool = False
    args: dict[str, Any] = Field(default={})

    @property
    def comes_with_weights(self) -> bool:
        """Whether building it gives trained weights."""
        return self.pretrained

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name


class CifarResNet(Network):
    """He et al.'s ResNets for 32x32 images (16, 32 and 64 channels, option-A shortcuts)."""

    kind: Literal["cifar_resnet"]
    depth: Literal[8, 20, 32, 44, 56, 110]

    @property
    def title(self) -> str:
        """What people call it."""
        return f"ResNet-{self.depth} (CIFAR)"


class ImportedModel(Network):
    """A teacher of which there are only features, imported from files (`kd-ray cache import`): nothing runs it.

    `digest` is the beginning of that of its features, where the cache has several imports under this name and note.
    """

    source_fields = frozenset({"digest"})
    takes_weights = False
    kind: Literal["imported"]
    name: str
    note: str = ""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")] | None = None

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.name} (imported)"


Trainable: TypeAlias = (
    TimmModel | CifarResNet | TorchvisionModel | TorchHubModel | TransformersModel | CheckpointModel | PythonModel
)
StudentNetwork = Annotated[Trainable, Field(discriminator="kind")]
Model = Annotated[Trainable | ExportedModel, Field(discriminator="kind")]
TeacherModel = Annotated[Trainable | ExportedModel | ImportedModel, Field(discriminator="kind")]


class Input(Section):
    """The pixels a model gets: a view rendered at `size_px`, divided by 255, less `mean`, over `std`."""

    size_px: SizePx
    mean: Channels = (0.485, 0.456, 0.406)
    std: Annotated[Channels, Field(description="all positive")] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"
    kind_sizes_px: dict[str, SizePx] = Field(
        default={},
        description="sizes of kinds of views for this model alone, by the kind's name",
        exclude_if=lambda sizes: not sizes,  # fingerprints over a dump are older than this field
    )

    @model_validator(mode="after")
    def _std_positive(self) -> "Input":
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self

    def of_kind(self, policy: Policy, kind: str) -> "Input":
        """What the model gets of views of one kind: at the size that it names for it, else the kind's, else its own."""
        size_px = self.kind_sizes_px.get(kind) or policy.size_px(kind) or self.size_px
        return self.model_copy(update={"size_px": size_px, "kind_sizes_px": {}})


def refuse_two_weights(model: Network, weights: str | None) -> None:
    """Raises ValueError where weights are given to a model that has its own; a function's are loaded over."""
    if weights is None or isinstance(model, PythonModel):
        return
    if not model.takes_weights:
        raise ValueError(f"weights are given, but {model.title} comes with its own; remove weights")
    if model.comes_with_weights:
        raise ValueError("both weights and model.pretrained are given; keep one")
