"""What the columns of a Parquet table of images mean: which are read, of what type, and what their cells say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kd_ray.config.corpus import ParquetSection
from kd_ray.corpus.sources.containers import OtherColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The cells of one row, texts still as bytes; without `data` the image lies where `path` says, if anywhere.

    A path in a column of its own is relative to the Parquet file, one beside null `bytes` to the source.
    """

    data: bytes | None
    path: bytes | None
    label: bytes | int | None
    mask: bytes | None
    boxes: object
    polygons: object
    caption: bytes | None


def columns(section: ParquetSection) -> list[str]:
    """The columns that are read."""
    return [name for name in _settings(section).values() if name is not None]


def rows(batch: Any, section: ParquetSection) -> Iterator[Row]:
    """The rows of a record batch."""
    data, paths = _images(batch.column(section.image_column))
    cells = {
        "label": _cells(batch, section.label_column),
        "mask": [None] * len(data) if section.mask_column is None else _bytes(batch.column(section.mask_column)),
        "boxes": _cells(batch, section.boxes_column),
        "polygons": _cells(batch, section.polygons_column),
        "caption": _cells(batch, section.caption_column),
    }
    for i in range(len(data)):
        yield Row(data=data[i], path=paths[i], **{name: column[i] for name, column in cells.items()})


def paths_are_columns(schema: Any, section: ParquetSection) -> bool:
    """Whether the image column itself holds locations."""
    return _is_text(schema.field(section.image_column).type)


def declared_names(schema: Any, section: ParquetSection) -> tuple[str, ...]:
    """The class names that Hugging Face's `datasets` left in the schema; none where there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[section.label_column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (ValueError, LookupError, TypeError):  # anyone may write under that key
        return ()
    is_usable = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_usable and len(set(names)) == len(names) else ()


def check_columns(schema: Any, section: ParquetSection, *, where: str) -> None:
    """Raise OtherColumns naming the first column that is missing, there more than once, or of a type that cannot be
    what it is said to be."""
    for setting, name in _settings(section).items():
        if name is not None and name not in schema.names:
            null = "" if setting == "image_column" else ", or null for none"
            raise OtherColumns(
                f"{where}: no column {name!r}; it has {', '.join(schema.names)}. "
                f"Set corpus.{setting} to one of them{null}."
            )
        num_columns = schema.names.count(name)
        if num_columns > 1:
            raise OtherColumns(
                f"{where}: {num_columns} columns {name!r}, which corpus.{setting} names. Rename all but one."
            )
        if name is not None:
            _check_type(schema.field(name).type, setting, where=f"{where}: column {name!r}")


def _settings(section: ParquetSection) -> dict[str, str | None]:
    return {
        "image_column": section.image_column,
        "label_column": section.label_column,
        "mask_column": section.mask_column,
        "boxes_column": section.boxes_column,
        "polygons_column": section.polygons_column,
        "caption_column": section.caption_column,
    }


def _check_type(kind: Any, setting: str, *, where: str) -> None:
    expected = {
        "image_column": (
            _holds_image(kind),
            "encoded images as binary, locations as strings, or a struct with a binary field `bytes` or a text `path`",
        ),
        "label_column": (_is_label(kind), "integers or strings"),
        "mask_column": (_holds_bytes(kind), "encoded masks as binary or as a struct with a binary field `bytes`"),
        "caption_column": (_is_text(kind) or pa.types.is_null(kind), "strings"),
    }
    is_right, wanted = expected.get(setting, (True, ""))
    if not is_right:
        null = "" if setting == "image_column" else ", or to null for none"
        raise OtherColumns(f"{where} holds {kind}, expected {wanted}. Set corpus.{setting} to such a column{null}.")


def _holds_image(kind: Any) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and _is_text(kind.field("path").type):
        return True
    return _holds_bytes(kind) or _is_text(kind)


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_null(kind)
    )


def _is_label(kind: Any) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(plain) or _is_text(plain) or pa.types.is_null(plain))


def _is_text(kind: Any) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def _images(column: Any) -> tuple[list[bytes | None], list[bytes | None]]:
    """(bytes, paths)."""
    none: list[bytes | None] = [None] * len(column)
    if _is_text(column.type):
        return none, _as_bytes(column)
    has_path = pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0
    has_path = has_path and _is_text(column.type.field("path").type)
    data = _bytes(column) if _holds_bytes(column.type) else none
    return data, _as_bytes(pc.struct_field(column, "path")) if has_path else none


def _bytes(column: Any) -> list[bytes | None]:
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    values: list[bytes | None] = column.to_pylist()
    return values


def _cells(batch: Any, name: str | None) -> list[Any]:
    if name is None:
        return [None] * batch.num_rows
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return _as_bytes(column) if _is_text(column.type) else list(column.to_pylist())


def _as_bytes(column: Any) -> list[bytes | None]:
    """Texts as they are stored: nothing says that they are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: list[bytes | None] = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
    return values
