"""One unit of an output as one file that plain tools read: a Parquet table, or a WebDataset tar. Pure: bytes out.

The same unit gives the same bytes under one version of pyarrow and NumPy. A row is one view of one sample, all rows of
the first view of the unit first. N: rows of one view.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kd_ray.cache.calibration import Calibration
from kd_ray.cache.commits import Commit
from kd_ray.cache.target_set import Output, SampleIds, refuse_other_members
from kd_ray.cache.view_store import ViewStore
from kd_ray.storage.base import canonical_json
from kd_ray.views import params_to_json
from kd_ray.views.digest import DIGEST_BYTES

Format = Literal["parquet", "webdataset"]
SUFFIXES: Mapping[Format, str] = {"parquet": "parquet", "webdataset": "tar"}
NO_LABEL = -1

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedView:
    """One view of a unit: `arrays` [N, …] are `values`, or what the codec stores; labels are -1 where there is none."""

    view_index: int
    sample_ids: SampleIds
    params: list[str]
    digests: list[bytes]
    labels: NDArray[np.int32] | None
    arrays: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels of a split by sample id, ids ascending."""

    sample_ids: SampleIds
    labels: NDArray[np.int32]

    def of(self, sample_ids: SampleIds) -> NDArray[np.int32]:
        """[N]; -1 for samples that are not among them."""
        at = np.minimum(np.searchsorted(self.sample_ids, sample_ids), len(self.sample_ids) - 1)
        found: NDArray[np.int32] = np.where(self.sample_ids[at] == sample_ids, self.labels[at], NO_LABEL)
        return found.astype(np.int32)


def exported_views(
    output: Output,
    commit: Commit,
    views: ViewStore,
    views_commit: Commit,
    *,
    calibration: Calibration | None,
    labels: Labels | None,
    as_stored: bool,
) -> Iterator[ExportedView]:
    """All views of one unit.

    Raises:
        CacheCorrupt: what is stored cannot be read, or targets and views are of different samples.
    """
    sample_ids = output.sample_ids(commit)
    refuse_other_members(views.collection, views_commit, sample_ids)
    for view_index in range(commit.unit.view_start, commit.unit.view_stop):
        rows = views.rows(views_commit, view_index)
        encoded = output.read_encoded(commit, view_index=view_index, sample_ids=sample_ids)
        yield ExportedView(
            view_index=view_index,
            sample_ids=sample_ids,
            params=[params_to_json(row.params) for row in rows],
            digests=[row.proof.digest for row in rows],
            labels=None if labels is None else labels.of(sample_ids),
            arrays=encoded if as_stored else {"values": output.coding.decode(encoded, calibration=calibration)},
        )


def encode(views: Iterator[ExportedView], *, format: Format) -> bytes:
    """The file of one unit."""
    match format:
        case "parquet":
            return _parquet(views)
        case "webdataset":
            return _tar(views)


def _parquet(views: Iterator[ExportedView]) -> bytes:
    """A row group for each view; arrays are lists of a fixed size, flattened."""
    sink = io.BytesIO()
    writer: Any = None
    for view in views:
        table = _table(view)
        if writer is None:
            writer = pq.ParquetWriter(
                sink, table.schema, compression="zstd", use_dictionary=False, write_page_checksum=True
            )
        writer.write_table(table, row_group_size=len(table))
    assert writer is not None, "a unit has a view"
    writer.close()
    return sink.getvalue()


def _table(view: ExportedView) -> Any:
    columns: dict[str, Any] = {
        "sample_id": pa.array(view.sample_ids, pa.uint64()),
        "view_index": pa.array([view.view_index] * len(view.sample_ids), pa.int32()),
        "params": pa.array(view.params, pa.string()),
        "digest": pa.array(view.digests, pa.binary(DIGEST_BYTES)),
    }
    if view.labels is not None:
        columns["label"] = pa.array(view.labels, mask=view.labels == NO_LABEL)
    for name, array in view.arrays.items():
        flat = np.ascontiguousarray(array).reshape(-1)
        size = int(np.prod(array.shape[1:], dtype=np.int64))
        columns[name] = pa.array(flat) if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(flat), size)
    return pa.table(columns)


def _tar(views: Iterator[ExportedView]) -> bytes:
    """For every row `<sample id>-<view>.json` and, under the same key, an `.npy` for each array; without times and
    owners of files.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for view in views:
            for row, sample_id in enumerate(view.sample_ids.tolist()):
                key = f"{sample_id:016x}-{view.view_index:04d}"
                _add(tar, f"{key}.json", _about(view, row, sample_id))
                for name, array in view.arrays.items():
                    _add(tar, f"{key}.{name}.npy", _npy(array[row]))
    return sink.getvalue()


def _about(view: ExportedView, row: int, sample_id: int) -> bytes:
    about: dict[str, Any] = {
        "sample_id": f"{sample_id:016x}",
        "view_index": view.view_index,
        "params": json.loads(view.params[row]),
        "digest": view.digests[row].hex(),
    }
    if view.labels is not None:
        label = int(view.labels[row])
        about["label"] = None if label == NO_LABEL else label
    return canonical_json(about)


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
