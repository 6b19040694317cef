"""What lies below `packed_uri`: names, records and the columns of a shard.

corpus.json                          identity: settings and corpus_id, fixed by the first packing
shards/<split>-<00000>.parquet       row groups of encoded images, with page checksums
commits/<split>-<00000>.json         created once the shard is written; a shard without it does not exist
quarantine/<digest[:16]>.parquet     what one packing left out, and why
packings/<listing digest>.json       written last: the source as listed then is packed whole
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from kd_ray.corpus.source import SplitName
from kd_ray.errors import CorpusError
from kd_ray.storage import Storage, digest_of_json, join
from kd_ray.storage.base import canonical_json

FORMAT_VERSION = 1
CORPUS_NAME = "corpus.json"
COMMITS = "commits"
PACKINGS = "packings"

SHARD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.uint64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


def sample_id_of(sha256: bytes) -> int:
    """The first 64 bits of the content hash, big-endian."""
    return int.from_bytes(sha256[:8], "big")


def shard_name(split: SplitName, index: int) -> str:
    """`train-00000` and the like."""
    return f"{split}-{index:05d}"


def shard_object(name: str) -> str:
    """The object of the shard `name`."""
    return f"shards/{name}.parquet"


def commit_object(name: str) -> str:
    """The object of the commit of the shard `name`."""
    return f"{COMMITS}/{name}.json"


def packing_object(digest: str) -> str:
    """The object that says that the source with this listing digest is packed."""
    return f"{PACKINGS}/{digest}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What must stay equal for samples to be appended; `split` is the recipe's section as JSON."""

    format_version: int
    row_group_size: int
    shard_row_groups: int
    seed: int
    classes: tuple[str, ...]
    split: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`corpus.json`."""

    corpus_id: str
    settings: Settings

    @staticmethod
    def of(settings: Settings, ordered_hashes: list[bytes]) -> "Identity":
        """The identity of a corpus that is first packed from samples with these hashes, in this order."""
        digest = digest_of_json({**asdict(settings), "samples": [sha256.hex() for sha256 in ordered_hashes]})
        return Identity(corpus_id=digest, settings=settings)

    def to_json(self) -> bytes:
        return canonical_json({"corpus_id": self.corpus_id, **asdict(self.settings)})

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
            settings = Settings(**{**fields, "classes": tuple(fields["classes"])})
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not the record of a packed corpus ({error}). Check packed_uri.") from error
        return Identity(corpus_id=corpus_id, settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """`commits/<shard>.json`: `footer_sha256` is of the Parquet footer, which page checksums do not cover."""

    shard: str
    split: SplitName
    rows_per_group: tuple[int, ...]
    size_bytes: int
    sha256: str
    footer_sha256: str
    listing_digest: str

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(data: bytes, *, where: str) -> "Commit":
        fields = _parsed(data, where)
        try:
            return Commit(**{**fields, "rows_per_group": tuple(fields["rows_per_group"])})
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: not the commit of a shard ({error}). Pack to a new packed_uri.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """`packings/<listing digest>.json`: what one packing found."""

    listing_digest: str
    num_scanned: int
    num_duplicates: int
    num_bad_per_reason: dict[str, int]
    num_other_files: int

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(data: bytes, *, where: str) -> "Packing":
        try:
            return Packing(**_parsed(data, where))
        except TypeError as error:
            raise CorpusError(f"{where}: not the record of a packing ({error}). Remove it, then pack again.") from error


def read_identity(storage: Storage) -> Identity | None:
    """The identity of the corpus below `storage`; None where nothing has been packed."""
    try:
        data = storage.read(CORPUS_NAME)
    except FileNotFoundError:
        return None
    return Identity.from_json(data, where=join(storage.uri, CORPUS_NAME))


def read_packing(storage: Storage, digest: str) -> Packing | None:
    """The record of the packing of a listing; None where that listing has not been packed whole."""
    name = packing_object(digest)
    try:
        data = storage.read(name)
    except FileNotFoundError:
        return None
    return Packing.from_json(data, where=join(storage.uri, name))


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CorpusError(f"{where}: not JSON ({error}). Restore it, or pack to a new packed_uri.") from error
    if not isinstance(fields, dict):
        raise CorpusError(f"{where}: expected a JSON object, got {str(fields)[:40]}. Pack to a new packed_uri.")
    return fields
