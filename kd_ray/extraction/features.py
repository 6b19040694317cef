"""Feature files that somebody else has written, one sample's values each: found, read and never executed."""

import csv
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.errors import CorpusError, KdRayError
from kd_ray.storage import Storage, redacted

SUFFIXES = (".npy", ".pt", ".safetensors")
COLUMNS = ("location", "file")
NUM_NAMED = 5


class BadFeatures(KdRayError, ValueError):
    """One file of features that cannot be used: the kind of mistake, then what is wrong with this one."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind

    def __reduce__(self) -> tuple[type["BadFeatures"], tuple[str, str]]:
        return BadFeatures, (self.kind, str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file below the folder of features, and the key inside it where it holds several tensors."""

    file: str
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """A folder of feature files; `places` by the location of a sample, or None where files are named by it.

    The file that was read last is kept: it may hold the features of many samples.
    """

    storage: Storage
    names: frozenset[str]
    places: Mapping[str, Place] | None
    key: str | None
    _last: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def of(storage: Storage, *, mapping: tuple[str, bytes] | None, key: str | None) -> "Features":
        """Of a folder, with the name and the bytes of a table that says which file belongs to which sample.

        Raises:
            CorpusError: nothing is there, or the table is not such a table.
        """
        names = frozenset(storage.list(""))
        if not any(name.endswith(SUFFIXES) for name in names):
            raise CorpusError(
                f"{redacted(storage.uri)}: holds no file of features. Expected {', '.join(SUFFIXES)} below it."
            )
        places = None if mapping is None else _places(*mapping, key=key)
        return Features(storage=storage, names=names, places=places, key=key)

    def place(self, location: str) -> Place:
        """Of the sample that was packed from `location`.

        Raises:
            BadFeatures: there is no file for it, or several.
        """
        if self.places is not None:
            found = self.places.get(location)
            if found is None or found.file not in self.names:
                what = "is not in the table" if found is None else f"{found.file} does not exist"
                raise BadFeatures("without a file", f"{location}: {what}")
            return found
        stem = str(PurePosixPath(location).with_suffix(""))
        candidates = [f"{stem}{suffix}" for suffix in SUFFIXES if f"{stem}{suffix}" in self.names]
        if not candidates:
            raise BadFeatures("without a file", f"{location}: there is no {stem}.npy, .pt or .safetensors")
        if len(candidates) > 1:
            raise BadFeatures("with several files", f"{location}: {' and '.join(candidates)}")
        return Place(file=candidates[0], key=self.key)

    def read(self, place: Place) -> NDArray[np.float32]:
        """The values of one sample.

        Raises:
            BadFeatures: the file would execute code, cannot be read, or is not one tensor of finite floats.
            StorageError: the storage does not answer.
        """
        if place.file not in self._last:
            content = _content(self.storage, place)
            self._last.clear()
            self._last[place.file] = content
        return _checked(_chosen(self._last[place.file], place), place)


def _content(storage: Storage, place: Place) -> Any:
    """An array, a tensor, or several by key."""
    suffix = PurePosixPath(place.file).suffix
    if suffix not in SUFFIXES:
        raise BadFeatures("of another kind", f"{place.file}: {suffix!r} is none of {', '.join(SUFFIXES)}")
    data = storage.read(place.file)
    match suffix:
        case ".npy":
            return _of_npy(data, place)
        case ".pt":
            return _of_checkpoint(data, place)
        case _:
            return _of_safetensors(data, place)


def _places(name: str, data: bytes, *, key: str | None) -> dict[str, Place]:
    rows = _rows(name, data)
    absent = [column for column in COLUMNS if rows and column not in rows[0]]
    if absent or not rows:
        got = ", ".join(rows[0]) if rows else "no rows"
        raise CorpusError(f"{name}: got {got}, expected rows with columns location, file and, if need be, key.")
    places: dict[str, Place] = {}
    for row in rows:
        if str(row["location"]) in places:
            raise CorpusError(f"{name}: names {row['location']} more than once. Leave one row for each sample.")
        places[str(row["location"])] = Place(file=str(row["file"]), key=row.get("key") or key)
    return places


def _rows(name: str, data: bytes) -> list[dict[str, Any]]:
    try:
        if name.endswith(".parquet"):
            rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
            return rows
        return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{name}: is no table ({error}). Give a .csv with a header, or a .parquet.") from error


def _of_npy(data: bytes, place: Place) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        kind = "pickled" if "allow_pickle" in str(error) or "Object arrays" in str(error) else "unreadable"
        raise BadFeatures(kind, f"{place.file}: {error}") from error
    except (EOFError, OSError) as error:
        raise BadFeatures("unreadable", f"{place.file}: {error}") from error
    return values


def _of_checkpoint(data: bytes, place: Place) -> Any:
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        told = str(error).splitlines()[0]
        raise BadFeatures("pickled", f"{place.file}: holds more than tensors and was not loaded ({told})") from error
    except (RuntimeError, EOFError) as error:
        raise BadFeatures("unreadable", f"{place.file}: {str(error).splitlines()[0]}") from error


def _of_safetensors(data: bytes, place: Place) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BadFeatures("unreadable", f"{place.file}: {error}") from error


def _chosen(content: Any, place: Place) -> NDArray[Any]:
    """The array or tensor itself, the one at the key, or the only one."""
    if isinstance(content, np.ndarray):
        return content
    if isinstance(content, dict):
        keys = list(content)
        if place.key is None and len(keys) == 1:
            content = content[keys[0]]
        elif place.key in content:
            content = content[place.key]
        else:
            named = ", ".join(map(str, keys[:NUM_NAMED])) + (", …" if len(keys) > NUM_NAMED else "")
            raise BadFeatures("without their key", f"{place.file}: got key {place.key}, it holds {named or 'nothing'}")
    if not isinstance(content, Tensor):
        raise BadFeatures("of another kind", f"{place.file}: holds {type(content).__name__}, not a tensor")
    tensor = content.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _checked(values: NDArray[Any], place: Place) -> NDArray[np.float32]:
    if values.dtype.kind != "f":
        raise BadFeatures("of another type", f"{place.file}: {values.dtype}, expected floats")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is told
        narrowed = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(narrowed).all():
        count = int((~np.isfinite(narrowed)).sum())
        raise BadFeatures("not finite", f"{place.file}: {count} of {narrowed.size} values are not finite in float32")
    return narrowed
