"""Which network, with which weights, fed how: shared by teachers and students."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Location, Misfits, Section
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.views import Interpolation, Policy, SizePx

Channels = tuple[float, float, float]
Precision = Literal["float32", "bfloat16", "float16"]
Codec = Literal["float32", "float16", "bfloat16", "int8", "uint8", "top_k"]
Temperature = Annotated[float, Field(gt=0)]
USUAL_TEMPERATURES = (1.0, 2.0, 4.0)
LOGITS_CODECS: frozenset[Codec] = frozenset({"uint8", "top_k"})
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class TimmModel(Section):
    """Any model of timm by its name; `args` are passed to `timm.create_model`."""

    kind: Literal["timm"]
    name: str
    pretrained: bool = False
    args: dict[str, Any] = Field(default={})

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name


class CifarResNet(Section):
    """He et al.'s ResNets for 32x32 images (16, 32 and 64 channels, option-A shortcuts)."""

    kind: Literal["cifar_resnet"]
    depth: Literal[8, 20, 32, 44, 56, 110]

    @property
    def title(self) -> str:
        """What people call it."""
        return f"ResNet-{self.depth} (CIFAR)"


class ImportedModel(Section):
    """A teacher of which there are only features, imported from files (`kd-ray cache import`): nothing runs it.

    `digest` is the beginning of that of its features, where the cache has several imports under this name and note.
    """

    kind: Literal["imported"]
    name: str
    note: str = ""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")] | None = None

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.name} (imported)"


Model = Annotated[TimmModel | CifarResNet, Field(discriminator="kind")]
TeacherModel = Annotated[TimmModel | CifarResNet | ImportedModel, Field(discriminator="kind")]


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


class Optimizer(Section):
    """One of timm's optimisers by name; biases and norms are not decayed."""

    kind: Literal["adamw", "sgd", "lamb", "lars"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class Schedule(Section):
    """Learning rate over steps: linear warm-up over `warmup_fraction` of the run, then cosine to zero, or constant."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Resources(Section):
    """What one Ray worker process takes."""

    num_cpus: Annotated[float, Field(ge=0)] = 1
    num_gpus: Annotated[float, Field(ge=0)] = 0


class Accelerator(Section):
    """How a teacher runs on one accelerator type."""

    batch_size_per_worker: PositiveInt


class TeacherResources(Resources):
    """How many workers run a teacher, on what; with `accelerators`, only on nodes with one of those types.

    `placement: fused` renders views in threads of the worker that runs the teacher, `split` in tasks of one CPU each
    anywhere on the cluster, up to `max_render_tasks` for each worker: where hosts of GPUs are short of CPUs.
    """

    min_workers: PositiveInt = 1
    max_workers: PositiveInt = 1
    batch_size_per_worker: PositiveInt = 64
    placement: Literal["fused", "split"] = "fused"
    max_render_tasks: PositiveInt = 4
    accelerators: dict[str, Accelerator] = Field(default={})

    @model_validator(mode="after")
    def _bounds(self) -> "TeacherResources":
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must not exceed max_workers ({self.max_workers})")
        if self.accelerators and not self.num_gpus:
            raise ValueError("accelerators are named but num_gpus is 0; set num_gpus to what one worker takes")
        return self


class Basis(Section):
    """The fewest directions that explain this share of the variance; coefficients in them are stored."""

    explained_variance: Annotated[float, Field(gt=0, lt=1)]


class TargetOutput(Section):
    """How one output of a teacher is stored; `uint8` and `top_k` are for logits.

    `top_k` keeps the `k` greatest with the exact log-sum-exp of all at each of `temperatures`.
    """

    codec: Codec = "float16"
    # keys over a dump are older than these four fields
    k: PositiveInt | None = Field(default=None, exclude_if=lambda k: k is None)
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] | None = Field(
        default=None, exclude_if=lambda temperatures: temperatures is None
    )
    pool: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="spatial: means of pool x pool places; it divides both sides of the grid",
        exclude_if=lambda pool: pool is None,
    )
    basis: Basis | None = Field(default=None, exclude_if=lambda basis: basis is None)

    @model_validator(mode="before")
    @classmethod
    def _usual_temperatures(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("codec") == "top_k" and values.get("temperatures") is None:
            return {**values, "temperatures": USUAL_TEMPERATURES}
        return values

    @model_validator(mode="after")
    def _fits_its_codec(self) -> "TargetOutput":
        is_top_k = self.codec == "top_k"
        if is_top_k and self.k is None:
            raise ValueError("top_k needs k, the number of classes to keep (10 takes 56 bytes a view)")
        if not is_top_k and (self.k is not None or self.temperatures is not None):
            raise ValueError(f"k and temperatures belong to codec: top_k, got codec: {self.codec}; remove them")
        if self.temperatures is not None and 1.0 not in self.temperatures:
            raise ValueError(f"temperatures must include 1, which evaluation reads; got {list(self.temperatures)}")
        return self


class Outputs(Section):
    """Which outputs are stored, per view: summary [D], spatial [H, W, D], logits [K]."""

    summary: TargetOutput | None = None
    spatial: TargetOutput | None = None
    logits: TargetOutput | None = None
    spatial_stage: int = Field(default=-1, description="index of the feature stage or block; -1: the last")

    @model_validator(mode="after")
    def _something(self) -> "Outputs":
        if not self.names():
            raise ValueError("no output is asked for; name at least one of summary, spatial, logits")
        found = []
        for name in self.names():
            output = self.stored_as(name)
            if name != "logits" and output.codec in LOGITS_CODECS:
                reason = f"codec {output.codec} is for logits; take int8, float16, bfloat16 or float32"
                found.append((f"{name}.codec", reason))
            if name != "spatial" and output.pool is not None:
                found.append((f"{name}.pool", f"pool is for spatial, {name} has no grid; remove it"))
            if name == "logits" and output.basis is not None:
                reason = "basis is for summary and spatial; remove it, or take codec: top_k for fewer bytes"
                found.append((f"{name}.basis", reason))
        if found:
            raise Misfits(found)
        return self

    def reduced(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """What is left of outputs of these `shapes` after pooling.

        Raises:
            ValueError: the factor does not divide the grid.
        """
        pool = self.spatial.pool if self.spatial is not None else None
        if pool is None or "spatial" not in shapes:
            return dict(shapes)
        height, width, channels = shapes["spatial"]
        if height % pool or width % pool:
            raise ValueError(f"got {pool}, which does not divide the grid of {height}x{width}")
        return {**shapes, "spatial": (height // pool, width // pool, channels)}

    def names(self) -> tuple[str, ...]:
        """The outputs asked for, in a fixed order."""
        return tuple(name for name in ("summary", "spatial", "logits") if getattr(self, name) is not None)

    def stored_as(self, name: str) -> TargetOutput:
        """How the output `name`, which is asked for, is stored."""
        output: TargetOutput = getattr(self, name)
        return output

    def only(self, names: Sequence[str]) -> "Outputs":
        """The same without the outputs that are not among `names`."""
        return self.model_copy(update={name: None for name in self.names() if name not in names})


class Finetune(Section):
    """Supervised training of a teacher on the labels that the recipe allows, before it is frozen."""

    steps: PositiveInt
    global_batch_size: PositiveInt = 64
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: int = 0
    resources: Resources = Resources()


class Teacher(Section):
    """A frozen model that produces targets, what it sees, what is kept of it, and where it runs."""

    model: TeacherModel
    weights: Location | None = Field(default=None, description="safetensors, or a weights-only checkpoint; any URI")
    input: Input
    num_classes: PositiveInt | None = Field(
        default=None, description="null: the corpus's, or the model's own where it comes pretrained and stays as it is"
    )
    precision: Precision = "float32"
    outputs: Outputs
    finetune: Finetune | None = None
    resources: TeacherResources = TeacherResources()

    @model_validator(mode="after")
    def _has_weights(self) -> "Teacher":
        if isinstance(self.model, ImportedModel):
            self._check_imported()
            return self
        pretrained = isinstance(self.model, TimmModel) and self.model.pretrained
        if self.weights is None and not pretrained and self.finetune is None:
            raise ValueError(
                "a teacher with random weights teaches nothing; give weights, model.pretrained or finetune"
            )
        if self.weights is not None and pretrained:
            raise ValueError("both weights and model.pretrained are given; keep one")
        if self.num_classes is not None and self.finetune is not None:
            raise ValueError("num_classes is that of the corpus where the teacher is finetuned; remove it")
        return self

    @property
    def network(self) -> Model | None:
        """The model that can be built; None of an imported teacher."""
        return None if isinstance(self.model, ImportedModel) else self.model

    def _check_imported(self) -> None:
        found = []
        if self.weights is not None:
            found.append(("weights", "an imported teacher has none: its features are its identity. Remove it"))
        if self.finetune is not None:
            found.append(("finetune", "an imported teacher has no network to train. Remove it"))
        if len(self.outputs.names()) != 1:
            reason = f"files give one output, got {', '.join(self.outputs.names())}. Import each as its own teacher"
            found.append(("outputs", reason))
        elif self.outputs.spatial is not None and self.outputs.spatial.pool is not None:
            found.append(("outputs.spatial.pool", "imported features are stored as they are. Pool them before"))
        if found:
            raise Misfits(found)


class Student(Section):
    """The model that is trained, and the pixels it gets."""

    name: Name = "student"
    model: Model
    weights: Location | None = None
    input: Input

    @model_validator(mode="after")
    def _one_start(self) -> "Student":
        if self.weights is not None and isinstance(self.model, TimmModel) and self.model.pretrained:
            raise ValueError("both weights and model.pretrained are given; keep one")
        return self
