"""What a table of overrides may hold: labels, masks, boxes and polygons as shards have them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kd_ray.corpus.format import BOX_TYPE, POLYGON_TYPE, SHARD_SCHEMA
from kd_ray.corpus.images.decode import BadImage
from kd_ray.corpus.images.masks import check_mask
from kd_ray.corpus.sources.files import read_ahead
from kd_ray.errors import CorpusError

KEY = "sample_id"
LABEL = "label"
COLUMNS = (LABEL, "mask", "boxes", "polygons", "caption")
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
LABELLED = {"boxes": BOX_TYPE, "polygons": POLYGON_TYPE}


def as_in_shards(table: Any, *, where: str) -> Any:
    """The columns of `table` in the types of a shard, whatever equal types their writer has chosen.

    Raises:
        CorpusError: other columns, or values that only a change of type could make into those of a shard.
    """
    names = table.column_names
    unknown = [name for name in names if name not in (KEY, *COLUMNS)]
    if KEY not in names or unknown or not 2 <= len(names) == len(set(names)):
        raise CorpusError(
            f"{where}: has the columns {', '.join(names)}, expected {KEY} and any of {', '.join(COLUMNS)}, each once. "
            "Correct the table."
        )
    for place, name in enumerate(names):
        table = table.set_column(place, name, _column(table, name, where=where))
    return table


def check_values(columns: Mapping[str, Sequence[Any]], sample_ids: NDArray[np.uint64], *, where: str) -> None:
    """See that every mask decodes, and that corners and points are fractions of an image.

    Raises:
        CorpusError: naming the first row that has something else.
    """
    for name, problem_of in (("boxes", _problem_of_box), ("polygons", _problem_of_polygon)):
        for row, shapes in enumerate(columns.get(name, ())):
            for shape in shapes or ():
                if problem := problem_of(shape):
                    raise _bad_row(where, row, sample_ids[row], f"{name} hold {problem}")
    masks = columns.get("mask", ())
    given = (row for row, mask in enumerate(masks) if mask is not None)
    for row, problem in read_ahead(lambda row: _problem_of_mask(masks[row]), given):
        if problem:
            raise _bad_row(where, row, sample_ids[row], problem)


def _column(table: Any, name: str, *, where: str) -> Any:
    found, wanted = table.schema.field(name).type, SHARD_SCHEMA.field(name).type
    if name == LABEL:
        wanted = pa.string() if _plain(found) in TEXTS else pa.int64()
    problem = f"{where}: column {name} holds {found}, expected {wanted}"
    if not _may_become(found, wanted, name):
        raise CorpusError(f"{problem}. Correct the table.")
    try:
        return table.column(name).cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise CorpusError(f"{problem} ({error}). Correct the table.") from error


def _may_become(found: Any, wanted: Any, name: str) -> bool:
    """Whether a cast keeps the meaning: it would write numbers as text, take true for 1 and drop unknown fields."""
    if name == KEY:  # as floats, ids above 2^53 are other ids
        return bool(pa.types.is_integer(_plain(found)))
    if wanted == pa.string():
        return _plain(found) in TEXTS
    if name in LABELLED and found.num_fields:
        shape = found.field(0).type
        known = {field.name for field in LABELLED[name]}
        if pa.types.is_struct(shape) and not {field.name for field in shape} <= known:
            return False
    return not _has_bool(found)


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _has_bool(kind: Any) -> bool:
    return bool(pa.types.is_boolean(kind)) or any(_has_bool(kind.field(i).type) for i in range(kind.num_fields))


def _problem_of_box(box: dict[str, Any] | None) -> str:
    if box is None:
        return "a null among the boxes"
    corners = box["corners"] or []
    if not (len(corners) == 4 and _are_fractions(corners)):
        return f"the corners {_shortened(corners)}, expected x_min, y_min, x_max, y_max as fractions from 0 to 1"
    if not (corners[0] < corners[2] and corners[1] < corners[3]):
        return f"the corners {_shortened(corners)}, a box without area: expected x_min < x_max and y_min < y_max"
    return _problem_of_label(box["label"])


def _problem_of_polygon(polygon: dict[str, Any] | None) -> str:
    if polygon is None:
        return "a null among the polygons"
    points = polygon["points"] or []
    if len(points) < 6 or len(points) % 2 or not _are_fractions(points):
        return (
            f"the points {_shortened(points)}, expected x and y in turn as fractions from 0 to 1, three points or more"
        )
    return _problem_of_label(polygon["label"])


def _problem_of_label(label: int | None) -> str:
    return "" if label is None or label >= 0 else f"the label {label}, expected a class or null"


def _problem_of_mask(mask: bytes) -> str:
    try:
        check_mask(mask)
    except BadImage as error:
        return str(error.args[1]).rstrip(".")
    return ""


def _are_fractions(values: Sequence[float | None]) -> bool:
    return all(value is not None and math.isfinite(value) and 0.0 <= value <= 1.0 for value in values)


def _shortened(values: Sequence[float | None]) -> str:
    return str(values) if len(values) <= 8 else f"{str(values[:8])[:-1]}, …]"


def _bad_row(where: str, row: int, sample_id: np.uint64, problem: str) -> CorpusError:
    return CorpusError(f"{where}: row {row} ({KEY} {sample_id}): {problem}. Correct the table.")
