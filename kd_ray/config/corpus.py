"""Where images come from, how they are split, and how they are packed."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Section

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]


class HashSplit(Section):
    """Held-out samples chosen by their content hash, so that a sample keeps its split through any re-packing."""

    kind: Literal["hash"] = "hash"
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2


class PathSplit(Section):
    """Splits that the source already has: paths relative to `corpus.uri`, a file or a folder each."""

    kind: Literal["paths"] = "paths"
    train: str | None = "train"
    test: str = "test"


Split = Annotated[HashSplit | PathSplit, Field(discriminator="kind")]


class PackedCorpus(Section):
    """What all sources have in common."""

    packed_uri: str = Field(description="where the packed shards go")
    split: Split = HashSplit()
    row_group_size: PositiveInt = 64
    shard_row_groups: PositiveInt = 16
    seed: int = Field(default=0, description="of the packing order")
    max_bad_fraction: Fraction = 0.01


class FolderCorpus(PackedCorpus):
    """A folder of images: one sub-folder a class, or images alone (unlabelled)."""

    kind: Literal["folder"]
    uri: str


class ParquetCorpus(PackedCorpus):
    """Parquet files of encoded images: bytes, or Hugging Face `{bytes, path}` structs."""

    kind: Literal["parquet"]
    uri: str
    image_column: str = "image"
    label_column: str | None = "label"
    classes_uri: str | None = Field(default=None, description="JSON list of class names; default: the numbers")


class DigitsCorpus(PackedCorpus):
    """scikit-learn's 1,797 handwritten digits, written once as PNG files under `uri` and read as a folder."""

    kind: Literal["digits"]
    uri: str


Corpus = Annotated[FolderCorpus | ParquetCorpus | DigitsCorpus, Field(discriminator="kind")]


class AllLabels(Section):
    """Every label of the training split may be used."""

    kind: Literal["all"] = "all"


class LabelsPerClass(Section):
    """Only `count` labels a class may be used, those of the samples with the lowest content hashes."""

    kind: Literal["per_class"]
    count: PositiveInt


class NoLabels(Section):
    """No label of the training split may be used."""

    kind: Literal["none"]


Labels = Annotated[AllLabels | LabelsPerClass | NoLabels, Field(discriminator="kind")]


class Cluster(Section):
    """Which Ray cluster runs the job: an existing one by address, or one started for this run."""

    address: str | None = Field(default=None, description="null: a cluster on this machine, for this run")
    num_cpus: PositiveInt | None = Field(default=None, description="of a cluster started here; null: all")
    temp_dir: str | None = Field(default=None, description="short path for Ray's sockets; null: Ray's default")
    object_store_mib: PositiveInt = 512

    @model_validator(mode="after")
    def _local_values_only_when_local(self) -> "Cluster":
        if self.address is not None and (self.num_cpus is not None or self.temp_dir is not None):
            raise ValueError("num_cpus and temp_dir belong to a cluster started here; remove them or set address: null")
        return self
