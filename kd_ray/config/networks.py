"""Kinds of networks beside timm's: torchvision, repositories, Hugging Face, programs, students, own functions."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kd_ray.config.base import Location, Section

FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class Network(Section):
    """What all kinds of networks tell of themselves; the fields named in `source_fields` decide no byte of an output.

    What is in files that a recipe names (code, programs, configurations) is in the fingerprint by its digest.
    """

    source_fields: ClassVar[frozenset[str]] = frozenset()
    takes_weights: ClassVar[bool] = True
    """Whether weights from a file can be loaded over it."""
    is_described_by_files: ClassVar[bool] = False
    """Whether code, a program or a configuration that the recipe names decides what is computed."""

    @property
    def comes_with_weights(self) -> bool:
        """Whether building it gives trained weights."""
        return False

    @property
    def title(self) -> str:
        """What people call it."""
        raise NotImplementedError


class TorchvisionModel(Network):
    """A classification model of torchvision by its name; `pretrained` is a member of its weights: IMAGENET1K_V2."""

    source_fields = frozenset({"pretrained"})
    kind: Literal["torchvision"]
    name: str
    pretrained: str | None = None
    args: dict[str, Any] = Field(default={})

    @property
    def comes_with_weights(self) -> bool:
        """Whether building it gives trained weights."""
        return self.pretrained is not None

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.name} (torchvision)"


class TorchHubModel(Network):
    """A function of hubconf.py in a local repository folder, whose code is run; nothing is cloned.

    `args` and, where it takes it, `pretrained` are passed to the function `entry`.
    """

    source_fields = frozenset({"repository", "source", "pretrained"})
    is_described_by_files = True
    kind: Literal["torch_hub"]
    repository: str
    source: Literal["local"] = "local"
    entry: str
    pretrained: bool = False
    args: dict[str, Any] = Field(default={})

    @property
    def comes_with_weights(self) -> bool:
        """Whether building it gives trained weights."""
        return self.pretrained

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.entry} (torch.hub)"


class TransformersModel(Network):
    """The vision tower of a model of Hugging Face transformers, by a local folder or the name of a hub repository."""

    source_fields = frozenset({"name", "revision", "pretrained"})
    is_described_by_files = True
    kind: Literal["transformers"]
    name: str
    revision: str | None = None
    pretrained: bool = False

    @property
    def comes_with_weights(self) -> bool:
        """Whether building it gives trained weights."""
        return self.pretrained

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.name} (transformers)"


class ExportedModel(Network):
    """A program with its weights: of torch.export (.pt2), or TorchScript (.pt, .ts)."""

    source_fields = frozenset({"program"})
    takes_weights = False
    is_described_by_files = True
    kind: Literal["exported"]
    program: Annotated[Location, Field(pattern=r"\.(pt2|pt|ts)$")]

    @property
    def comes_with_weights(self) -> bool:
        """It always does."""
        return True

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.program.rsplit('/', 1)[-1]} (exported)"


class CheckpointModel(Network):
    """A student of kd_ray with its weights, from the folder that it was exported to."""

    source_fields = frozenset({"uri"})
    takes_weights = False
    is_described_by_files = True
    kind: Literal["checkpoint"]
    uri: Location

    @property
    def comes_with_weights(self) -> bool:
        """It always does."""
        return True

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.uri.rstrip('/').rsplit('/', 1)[-1]} (checkpoint)"


class PythonModel(Network):
    """What a function of yours gives, which is called with `args` and, where it takes it, `num_classes`."""

    is_described_by_files = True
    kind: Literal["python"]
    function: Annotated[str, Field(pattern=FUNCTION, description="package.module:function")]
    args: dict[str, Any] = Field(default={})

    @property
    def comes_with_weights(self) -> bool:
        """The function is to load them, unless the recipe gives them beside the model."""
        return True

    @property
    def title(self) -> str:
        """What people call it."""
        return self.function
