"""What lies below `packed_uri`: names, records and the columns of a shard.

corpus.json                                    identity: settings and corpus_id, fixed by the first packing
shards/<split>-<00000>-<digest[:8]>.parquet    row groups of encoded images, with page checksums; never overwritten
commits/<split>-<00000>.json                   created once the shard is written; a shard without it does not exist
quarantine/<listing digest[:16]>.parquet       what one packing left out, and why
packings/<00000>.json                          created last: the sources as listed then are packed, in these shards
scans/<listing digest[:16]>/, plans/…          notes of a packing under way, removed at its end

Packings follow one another: each is planned on those that have come to their end, and only one can be the next. What a
packing committed that did not become the next is not part of the corpus.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError
from kd_ray.storage import Storage, digest_of_json, join
from kd_ray.storage.base import canonical_json

FORMAT_VERSION = 2
CORPUS_NAME = "corpus.json"
COMMITS = "commits"
PACKINGS = "packings"
FOOTER_TAIL_BYTES = 8  # of a Parquet file: four bytes of footer length, then PAR1

# Corners and points are fractions of the upright image's width and height, so that they hold at any size.
BOX_TYPE = pa.struct([pa.field("label", pa.int32()), pa.field("corners", pa.list_(pa.float64()))])
POLYGON_TYPE = pa.struct([pa.field("label", pa.int32()), pa.field("points", pa.list_(pa.float64()))])

SHARD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.uint64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),  # of the source bytes, before any re-encoding
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("mask", pa.binary()),
        pa.field("boxes", pa.list_(BOX_TYPE)),
        pa.field("polygons", pa.list_(POLYGON_TYPE)),
        pa.field("caption", pa.string()),
        pa.field("height", pa.int32(), nullable=False),  # of the stored image, upright
        pa.field("width", pa.int32(), nullable=False),
        pa.field("copies", pa.int32(), nullable=False),  # equal source images that this sample stands for
        pa.field("location", pa.string(), nullable=False),  # of the first of them, relative to its source
    ]
)


def sample_id_of(sha256: bytes) -> int:
    """The first 64 bits of the content hash, big-endian."""
    return int.from_bytes(sha256[:8], "big")


def shard_name(split: SplitName, index: int) -> str:
    """`train-00000` and the like."""
    return f"{split}-{index:05d}"


def shard_index(name: str) -> int:
    """The number in the name of a shard."""
    return int(name.rsplit("-", 1)[1])


def shard_object(name: str, digest: str) -> str:
    """The object of the shard `name`; `digest` is of its samples, so that racing plans never share one."""
    return f"shards/{name}-{digest[:8]}.parquet"


def footer_length(tail: bytes) -> int:
    """Bytes of the Parquet footer, with its length and magic, from the last bytes of a file."""
    return int.from_bytes(tail[-FOOTER_TAIL_BYTES:-4], "little") + FOOTER_TAIL_BYTES


def commit_object(name: str) -> str:
    """The object of the commit of the shard `name`."""
    return f"{COMMITS}/{name}.json"


def packing_object(number: int) -> str:
    """The object that says that the packing of this number has come to its end."""
    return f"{PACKINGS}/{number:05d}.json"


def scan_folder(digest: str) -> str:
    """Where the scan of the source with this listing digest leaves its findings."""
    return f"scans/{digest[:16]}"


def plan_folder(digest: str) -> str:
    """Where the planned shards of the source with this listing digest lie."""
    return f"plans/{digest[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What must stay equal for samples to be appended; sections of the recipe as JSON."""

    format_version: int
    row_group_size: int
    shard_row_groups: int
    seed: int
    split: dict[str, Any]
    native_resolution_filter: dict[str, Any]
    reencode: dict[str, Any] | None
    label_map: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`corpus.json`; `classes` are the class names by label, empty without labels; later packings may add some."""

    corpus_id: str
    settings: Settings
    classes: tuple[str, ...]

    @staticmethod
    def of(settings: Settings, *, classes: Sequence[str], shard_digests: Sequence[str]) -> "Identity":
        """The identity of a corpus that is first packed in shards of these samples, in this order."""
        record = {**asdict(settings), "classes": list(classes), "shards": list(shard_digests)}
        return Identity(corpus_id=digest_of_json(record), settings=settings, classes=tuple(classes))

    def to_json(self) -> bytes:
        return canonical_json({"corpus_id": self.corpus_id, "classes": list(self.classes), **asdict(self.settings)})

    @staticmethod
    def from_json(data: bytes, *, where: str) -> "Identity":
        fields = _parsed(data, where)
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise CorpusError(
                f"{where}: packed in format {version}, this kd_ray reads format {FORMAT_VERSION}. "
                "Use the kd_ray that packed it, or pack to a new packed_uri."
            )
        try:
            corpus_id = str(fields.pop("corpus_id"))
            classes = tuple(fields.pop("classes"))
            settings = Settings(**fields)
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not the record of a packed corpus ({error}). Check packed_uri.") from error
        return Identity(corpus_id=corpus_id, settings=settings, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """`commits/<shard>.json`: what makes a shard exist.

    `object` is where it lies, `source` the name of the source in a mixture ("" alone), `annotations` a digest of
    labels, masks, boxes and polygons. `footer_sha256` is of the Parquet footer, which page checksums do not cover.
    """

    shard: str
    object: str
    source: str
    split: SplitName
    rows_per_group: tuple[int, ...]
    annotations: str
    size_bytes: int
    footer_sha256: str
    listing_digest: str

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(data: bytes, *, where: str) -> "Commit":
        return Commit.from_fields(_parsed(data, where), where=where)

    @staticmethod
    def from_fields(fields: dict[str, Any], *, where: str) -> "Commit":
        try:
            return Commit(**{**fields, "rows_per_group": tuple(fields["rows_per_group"])})
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not the commit of a shard ({error}). Pack to a new packed_uri.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """`packings/<number>.json`: what one packing found, and the commits that it brought, folded together.

    `classes` are all class names by label since then. `left_out` counts the rows of its quarantine table by reason. Bad
    ones are those that max_bad_fraction is about.
    """

    listing_digest: str
    classes: tuple[str, ...]
    num_inputs: int
    num_bytes: int
    num_duplicates: int
    left_out: dict[str, int]
    num_bad: int
    num_bad_bytes: int
    commits: tuple[Commit, ...]

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(data: bytes, *, where: str) -> "Packing":
        fields = _parsed(data, where)
        try:
            commits = tuple(Commit.from_fields(each, where=where) for each in fields.pop("commits"))
            return Packing(**{**fields, "classes": tuple(fields["classes"])}, commits=commits)
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not the record of a packing ({error}). Remove it, then pack again.") from error


def read_identity(storage: Storage) -> Identity | None:
    """The identity of the corpus below `storage`; None where nothing has been packed."""
    try:
        data = storage.read(CORPUS_NAME)
    except FileNotFoundError:
        return None
    return Identity.from_json(data, where=join(storage.uri, CORPUS_NAME))


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CorpusError(f"{where}: not JSON ({error}). Restore it, or pack to a new packed_uri.") from error
    if not isinstance(fields, dict):
        raise CorpusError(f"{where}: expected a JSON object, got {str(fields)[:40]}. Pack to a new packed_uri.")
    return fields
