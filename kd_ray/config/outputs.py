"""What is kept of a teacher, and how it is stored."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Misfits, Section
from kd_ray.config.corpus import PositiveInt

Codec = Literal["float32", "float16", "bfloat16", "int8", "uint8", "top_k"]
Temperature = Annotated[float, Field(gt=0)]
USUAL_TEMPERATURES = (1.0, 2.0, 4.0)
LOGITS_CODECS: frozenset[Codec] = frozenset({"uint8", "top_k"})


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


class Layer(Section):
    """What a module gives by its dotted name (`blocks.7.mlp`): [B, D], [B, C, H, W], or [B, N, D] of which
    the first `prefix_tokens` are no places of the grid.
    """

    kind: Literal["layer"]
    layer: str
    prefix_tokens: Annotated[int, Field(ge=0)] = 0
    channels_last: bool = Field(default=False, description="maps are [B, H, W, C], as inside Swin")


class Token(Section):
    """What the classifier gets (pooled), the class token, or that and the mean of the patch tokens, after the norm."""

    kind: Literal["pooled", "cls", "cls_mean"]


class LastBlocks(Section):
    """Class tokens of the last `count` blocks, each through the final norm, one after another.

    With `mean` the mean of the last block's patch tokens follows, as in DINOv2's linear evaluation.
    """

    kind: Literal["last_blocks"]
    count: Annotated[int, Field(ge=1)]
    mean: bool = False


SummarySource = Annotated[Token | LastBlocks | Layer, Field(discriminator="kind")]
POOLED = Token(kind="pooled")


class Outputs(Section):
    """Which outputs are stored, per view: summary [D], spatial [H, W, D], logits [K]."""

    summary: TargetOutput | None = None
    spatial: TargetOutput | None = None
    logits: TargetOutput | None = None
    spatial_stage: int = Field(default=-1, description="index of the feature stage or block; -1: the last")

    # keys over a dump are older than these two fields
    summary_from: SummarySource = Field(default=POOLED, exclude_if=lambda source: source == POOLED)
    spatial_from: Layer | None = Field(
        default=None,
        description="a module whose output it is, instead of a stage",
        exclude_if=lambda layer: layer is None,
    )

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
        if self.summary is None and self.summary_from != POOLED:
            found.append(("summary_from", "summary is not asked for; add summary, or remove this"))
        if self.spatial is None and self.spatial_from is not None:
            found.append(("spatial_from", "spatial is not asked for; add spatial, or remove this"))
        if self.spatial_from is not None and self.spatial_stage != -1:
            found.append(("spatial_stage", "spatial_from names a layer; keep one of the two"))
        if found:
            raise Misfits(found)
        return self

    def source_of(self, name: str) -> dict[str, Any] | None:
        """Where in the network an output is read, as JSON; None where it is the usual place or a stage."""
        match name:
            case "summary" if self.summary_from != POOLED:
                return self.model_dump(mode="json", include={"summary_from"})
            case "spatial" if self.spatial_from is not None:
                return self.model_dump(mode="json", include={"spatial_from"})
        return None

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
