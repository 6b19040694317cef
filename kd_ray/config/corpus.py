"""Where images come from, how they are split, and how they are packed."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kd_ray.config.base import Location, Misfits, Section

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]


class HashSplit(Section):
    """Held-out samples chosen by their content hash, so that a sample keeps its split through any re-packing."""

    kind: Literal["hash"] = "hash"
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    val_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _leaves_something_to_train(self) -> "HashSplit":
        if self.test_fraction + self.val_fraction >= 1.0:
            raise Misfits([("val_fraction", "test_fraction and val_fraction together leave nothing to train on")])
        return self


class PathSplit(Section):
    """Splits that the source already has: paths relative to its `uri`, a file, a folder or a pattern each.

    Patterns are those of a shell (`data/train-*.parquet`).
    """

    kind: Literal["paths"] = "paths"
    train: str | None = "train"
    val: str | None = None
    test: str = "test"


Split = Annotated[HashSplit | PathSplit, Field(discriminator="kind")]


class NativeResolutionFilter(Section):
    """Which images are too small or too long to be used, by their upright size in pixels before any re-encoding."""

    min_short_side: PositiveInt | None = None
    min_long_side: PositiveInt | None = None
    min_area: PositiveInt | None = None
    max_aspect_ratio: Annotated[float, Field(ge=1.0)] | None = None


class Reencode(Section):
    """Store smaller images: one side limited in pixels, never enlarged; what is within the limit keeps its bytes."""

    longest_side_px: PositiveInt | None = None
    shortest_side_px: PositiveInt | None = None
    format: Literal["jpeg", "webp", "png"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] = 92

    @model_validator(mode="after")
    def _one_limit(self) -> "Reencode":
        if (self.longest_side_px is None) == (self.shortest_side_px is None):
            raise Misfits([("longest_side_px", "give either longest_side_px or shortest_side_px")])
        return self


class PackedCorpus(Section):
    """What all corpora have in common."""

    packed_uri: Location = Field(description="where the packed shards go")
    split: Split = HashSplit()
    row_group_size: PositiveInt = 64
    shard_row_groups: PositiveInt = 16
    seed: int = Field(default=0, description="of the packing order")
    max_bad_fraction: Fraction = Field(default=0.01, description="of the inputs, and of their bytes")
    native_resolution_filter: NativeResolutionFilter = NativeResolutionFilter()
    reencode: Reencode | None = None
    label_map: dict[str, str | None] = Field(
        default={}, description="class name to class name; null takes the label away; names not listed stay"
    )
    overrides_uri: Location | None = Field(
        default=None, description="Parquet table: sample_id and new values of label, mask, boxes, polygons or caption"
    )


class Access(Section):
    """How a source on S3 is reached; credentials themselves come from the environment or the named profile."""

    anonymous: bool = False
    endpoint_url: Location | None = None
    profile: str | None = None

    @model_validator(mode="after")
    def _anonymous_has_no_profile(self) -> "Access":
        if self.anonymous and self.profile is not None:
            raise Misfits([("profile", "anonymous access uses no profile; remove one of the two")])
        return self


class SourceSection(Section):
    """What every source of images has."""

    uri: Location
    access: Access = Access()


class FolderSection(SourceSection):
    """A folder of images: one sub-folder a class, or images alone (unlabelled)."""

    kind: Literal["folder"]


class _Columns(SourceSection):
    """Where in a table each part of a sample is; boxes and polygons are in pixels of the upright image."""

    image_column: str = "image"
    label_column: str | None = "label"
    mask_column: str | None = None
    boxes_column: str | None = None
    polygons_column: str | None = None
    caption_column: str | None = None
    classes_uri: Location | None = Field(default=None, description="JSON list of class names; default: see the source")


class ParquetSection(_Columns):
    """Parquet files: encoded images as bytes, as Hugging Face `{bytes, path}` structs, or as locations (strings)."""

    kind: Literal["parquet"]


class ListingSection(_Columns):
    """A CSV or JSONL file of image locations, relative to `images_uri` or whole URLs."""

    kind: Literal["listing"]
    images_uri: Location | None = Field(default=None, description="null: the folder of the listing")


class WebDatasetSection(SourceSection):
    """Tar files in the WebDataset layout: members that share the name before the first dot are one sample."""

    kind: Literal["webdataset"]
    mask_extension: str | None = Field(default=None, description="of the mask members, e.g. seg.png")
    classes_uri: Location | None = Field(default=None, description="JSON list of class names, for numbers in .cls")
    samples_per_file: PositiveInt | None = Field(
        default=None, description="about how many samples a tar holds; only for progress and estimates"
    )


class SegmentationSection(SourceSection):
    """Image and mask folders: files of equal name but for the suffix belong together."""

    kind: Literal["segmentation"]
    images: str = "images"
    masks: str = "masks"


class DigitsSection(SourceSection):
    """scikit-learn's 1,797 handwritten digits, written once as PNG files under `uri` and read as a folder."""

    kind: Literal["digits"]


class FolderCorpus(PackedCorpus, FolderSection):
    """A folder of images, packed."""


class ParquetCorpus(PackedCorpus, ParquetSection):
    """Parquet files, packed."""


class ListingCorpus(PackedCorpus, ListingSection):
    """A listing, packed."""


class WebDatasetCorpus(PackedCorpus, WebDatasetSection):
    """Tar files, packed."""


class SegmentationCorpus(PackedCorpus, SegmentationSection):
    """Image and mask folders, packed."""


class DigitsCorpus(PackedCorpus, DigitsSection):
    """The digits, packed."""


class Member(Section):
    """A source's place in a mixture: drawn in proportion to `scale_factor` times the number of its samples."""

    scale_factor: Annotated[float, Field(gt=0.0)] = 1.0


class FolderMember(Member, FolderSection):
    """A folder in a mixture."""


class ParquetMember(Member, ParquetSection):
    """Parquet files in a mixture."""


class ListingMember(Member, ListingSection):
    """A listing in a mixture."""


class WebDatasetMember(Member, WebDatasetSection):
    """Tar files in a mixture."""


class SegmentationMember(Member, SegmentationSection):
    """Image and mask folders in a mixture."""


class DigitsMember(Member, DigitsSection):
    """The digits in a mixture."""


MixtureMember = Annotated[
    FolderMember | ParquetMember | ListingMember | WebDatasetMember | SegmentationMember | DigitsMember,
    Field(discriminator="kind"),
]


class MixtureCorpus(PackedCorpus):
    """Several sources packed into one corpus and drawn at fixed ratios; of equal images the first source's stays."""

    kind: Literal["mixture"]
    sources: Annotated[dict[SourceName, MixtureMember], Field(min_length=1)]


Corpus = Annotated[
    FolderCorpus | ParquetCorpus | ListingCorpus | WebDatasetCorpus | SegmentationCorpus | DigitsCorpus | MixtureCorpus,
    Field(discriminator="kind"),
]


def sources_without_masks(corpus: Corpus) -> list[str]:
    """The parts of the corpus section whose images have no masks, with their kinds.

    A table of overrides may give them to any.
    """
    if corpus.overrides_uri is not None:
        return []
    if isinstance(corpus, MixtureCorpus):
        return [f"corpus.sources.{name} ({each.kind})" for name, each in corpus.sources.items() if not _has_masks(each)]
    return [] if _has_masks(corpus) else [f"corpus ({corpus.kind})"]


def _has_masks(source: SourceSection) -> bool:
    match source:
        case SegmentationSection():
            return True
        case WebDatasetSection():
            return source.mask_extension is not None
        case ParquetSection() | ListingSection():
            return source.mask_column is not None
        case _:
            return False


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
