"""What a scan finds: one row an input, written part by part by the workers, gathered by the driver for the plan.

The driver holds about 130 bytes a sample: numbers in arrays, names in one buffer, nothing as Python objects.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.corpus.source import SPLITS, Reason, SplitName
from kd_ray.corpus.sources.files import in_batches
from kd_ray.storage import Storage

REASONS: tuple[Reason, ...] = get_args(Reason)
ACCEPTED = -1  # in place of an index into REASONS
NO_NAME = -1  # in place of an index into the label names
BATCH_SIZE = 4096
PART_VERSION = 2  # changes with PART_SCHEMA: parts that another version left are not read
COUNTED = ("num_rows", "num_bytes", "location_bytes", "locator_bytes")

PART_SCHEMA = pa.schema(
    [
        pa.field("location", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),  # "" where it is the location
        pa.field("run", pa.int32(), nullable=False),
        pa.field("split", pa.int8(), nullable=False),
        pa.field("reason", pa.int8(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("annotations", pa.uint64(), nullable=False),
        pa.field("has_caption", pa.bool_(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One input after the scan. `annotations` digests mask, boxes and polygons, 0 where there are none.

    Without a `reason` it is an image that decodes, `size_px` (height, width), upright.
    """

    location: str
    locator: str
    run: int
    split: SplitName
    reason: Reason | None
    label: str | None
    annotations: int
    has_caption: bool
    sha256: bytes
    crc32c: int
    size_bytes: int
    size_px: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSize:
    """What the driver must know of a part before it reads it."""

    index: int
    num_rows: int
    num_bytes: int
    location_bytes: int
    locator_bytes: int


def write_part(storage: Storage, name: str, findings: Iterable[Finding], *, index: int) -> PartSize:
    """Write the Parquet file of one part, few findings in memory at a time; `findings` is taken once."""
    sizes: list[PartSize] = []

    def produce(file: BinaryIO) -> None:
        counts = dict.fromkeys(COUNTED, 0)
        with pq.ParquetWriter(file, PART_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            for batch in in_batches(findings, BATCH_SIZE):
                table = _table(batch)
                writer.write_table(table)
                counts["num_rows"] += len(batch)
                counts["num_bytes"] += sum(each.size_bytes for each in batch)
                counts["location_bytes"] += _text_bytes(table.column("location"))
                counts["locator_bytes"] += _text_bytes(table.column("locator"))
            writer.add_key_value_metadata({name: str(count) for name, count in counts.items()})
        sizes.append(PartSize(index=index, **counts))

    storage.write_from(name, produce)
    return sizes[-1]


def read_part_size(storage: Storage, name: str, *, index: int) -> PartSize:
    """The size of a part that was written before.

    Raises:
        FileNotFoundError: there is none.
    """
    metadata = pq.read_metadata(io.BytesIO(storage.read(name))).metadata
    return PartSize(index=index, **{key: int(metadata[key.encode()]) for key in COUNTED})


def _table(findings: Sequence[Finding]) -> Any:
    columns: dict[str, list[Any]] = {
        "location": [each.location for each in findings],
        "locator": ["" if each.locator == each.location else each.locator for each in findings],
        "run": [each.run for each in findings],
        "split": [SPLITS.index(each.split) for each in findings],
        "reason": [ACCEPTED if each.reason is None else REASONS.index(each.reason) for each in findings],
        "label": [each.label for each in findings],
        "annotations": [each.annotations for each in findings],
        "has_caption": [each.has_caption for each in findings],
        "sha256": [each.sha256 for each in findings],
        "crc32c": [each.crc32c for each in findings],
        "size_bytes": [each.size_bytes for each in findings],
        "height": [each.size_px[0] for each in findings],
        "width": [each.size_px[1] for each in findings],
    }
    return pa.table(columns, schema=PART_SCHEMA)


def _text_bytes(column: Any) -> int:
    return sum(len(each.encode()) for each in column.to_pylist())


def _batches(data: bytes) -> Iterator[Any]:
    with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)


class Text:
    """Many strings in one buffer of a known size."""

    def __init__(self, num_rows: int, num_bytes: int) -> None:
        self._type = pa.string() if num_bytes <= np.iinfo(np.int32).max else pa.large_string()
        self._data = np.empty(num_bytes, np.uint8)
        self._offsets = np.zeros(num_rows + 1, np.int32 if self._type == pa.string() else np.int64)
        self._num_rows = 0

    def append(self, column: Any) -> None:
        """Add the strings of an Arrow column."""
        for chunk in column.cast(pa.large_string()).chunks:
            first = chunk.offset
            offsets = np.frombuffer(chunk.buffers()[1], np.int64)[first : first + len(chunk) + 1]
            start = int(self._offsets[self._num_rows])
            size = int(offsets[-1] - offsets[0])
            if size:
                source = np.frombuffer(chunk.buffers()[2], np.uint8)
                self._data[start : start + size] = source[offsets[0] : offsets[-1]]
            if start + size:  # while all are empty the offsets stay untouched, and take no memory
                self._offsets[self._num_rows + 1 : self._num_rows + len(chunk) + 1] = offsets[1:] - offsets[0] + start
            self._num_rows += len(chunk)

    def array(self) -> Any:
        """All strings as an Arrow array over the same memory."""
        buffers = [None, pa.py_buffer(self._offsets), pa.py_buffer(self._data)]
        return pa.Array.from_buffers(self._type, self._num_rows, buffers)

    def __getitem__(self, row: int) -> str:
        return bytes(self._data[self._offsets[row] : self._offsets[row + 1]]).decode()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All findings of a scan in the order of the listing; parallel arrays [N].

    `label` indexes `label_names`, `reason` REASONS and `split` SPLITS; `run` numbers the runs of all extents, `source`
    the sources.
    """

    location: Text
    locator: Text
    source: NDArray[np.int16]
    run: NDArray[np.int32]
    split: NDArray[np.int8]
    reason: NDArray[np.int8]
    label: NDArray[np.int32]
    label_names: tuple[str, ...]
    annotations: NDArray[np.uint64]
    has_caption: NDArray[np.bool_]
    sha256: NDArray[np.uint8]
    crc32c: NDArray[np.uint32]
    size_bytes: NDArray[np.int64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.source)

    def where(self, row: int) -> str:
        """The location of one input, for people."""
        return self.location[row]

    @property
    def sample_ids(self) -> NDArray[np.uint64]:
        """The first 64 bits of each content hash [N]."""
        return self.sha256.view(">u8")[:, 0].astype(np.uint64)


def gather(parts: Iterable[tuple[int, bytes]], sizes: Sequence[PartSize]) -> Findings:
    """All parts in order, each with the number of its source; `sizes` are theirs, in the same order."""
    num_rows = sum(size.num_rows for size in sizes)
    found = _empty(num_rows, sizes)
    names: dict[str, int] = {}
    row = num_runs = 0
    for source, data in parts:
        run_numbers: dict[int, int] = {}
        for table in _batches(data):
            stop = row + table.num_rows
            for name in ("split", "reason", "crc32c", "size_bytes", "height", "width"):
                getattr(found, name)[row:stop] = table.column(name).to_numpy()
            annotations = table.column("annotations").to_numpy()
            if annotations.any():
                found.annotations[row:stop] = annotations
            captions = table.column("has_caption").to_numpy()
            if captions.any():
                found.has_caption[row:stop] = captions
            hashes = b"".join(table.column("sha256").to_pylist())
            found.sha256[row:stop] = np.frombuffer(hashes, np.uint8).reshape(-1, 32)
            runs, inverse = np.unique(table.column("run").to_numpy(), return_inverse=True)
            numbers = [run_numbers.setdefault(run, num_runs + len(run_numbers)) for run in runs.tolist()]
            found.run[row:stop] = np.array(numbers, np.int32)[inverse]
            found.source[row:stop] = source
            found.label[row:stop] = _label_indices(table.column("label"), names)
            found.location.append(table.column("location"))
            found.locator.append(table.column("locator"))
            row = stop
        num_runs += len(run_numbers)
    assert row == num_rows, "as many rows as the parts were said to have"
    return Findings(**{**_fields(found), "label_names": tuple(names)})


def _empty(num_rows: int, sizes: Sequence[PartSize]) -> Findings:
    return Findings(
        location=Text(num_rows, sum(size.location_bytes for size in sizes)),
        locator=Text(num_rows, sum(size.locator_bytes for size in sizes)),
        source=np.empty(num_rows, np.int16),
        run=np.empty(num_rows, np.int32),
        split=np.empty(num_rows, np.int8),
        reason=np.empty(num_rows, np.int8),
        label=np.empty(num_rows, np.int32),
        label_names=(),
        annotations=np.zeros(num_rows, np.uint64),  # takes no memory before it is written to
        has_caption=np.zeros(num_rows, np.bool_),
        sha256=np.empty((num_rows, 32), np.uint8),
        crc32c=np.empty(num_rows, np.uint32),
        size_bytes=np.empty(num_rows, np.int64),
        height=np.empty(num_rows, np.int32),
        width=np.empty(num_rows, np.int32),
    )


def _fields(found: Findings) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Findings.__dataclass_fields__}


def _label_indices(column: Any, names: dict[str, int]) -> NDArray[np.int32]:
    encoded = column.combine_chunks().dictionary_encode()
    of_part = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int32)
    indices = encoded.indices.fill_null(NO_NAME).to_numpy(zero_copy_only=False)
    return np.where(indices == NO_NAME, NO_NAME, np.append(of_part, NO_NAME)[indices]).astype(np.int32)
