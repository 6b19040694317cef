"""Boxes, polygons and class names in the forms that people store them in."""

import json
import math
import sys
from collections.abc import Mapping, Sequence

from kd_ray.config.corpus import Access
from kd_ray.corpus.source import Box, Polygon
from kd_ray.corpus.sources.files import beside
from kd_ray.errors import CorpusError
from kd_ray.storage import redacted

LABEL_KEYS = ("label", "category_id", "category")
MAX_NUMBER = sys.float_info.max  # JSON has whole numbers that no float holds
MAX_LABEL = 2**31 - 1


def parse_boxes(value: object) -> tuple[Box, ...] | None:
    """Boxes from a list, from the columns `{"bbox": [...], "category": [...]}`, or from JSON text of either.

    Each is `[x0, y0, x1, y1]`, the same and a label, `{"box": [x0, y0, x1, y1]}` or COCO's `{"bbox": [x, y, w, h]}`,
    the last two with a `label`, `category_id` or `category`. Columns hold COCO's boxes. None and NaN are no boxes.

    Raises:
        ValueError: anything else, or a box without area.
    """
    value = _decoded(value)
    if value is None:
        return None
    if isinstance(value, Mapping):
        return tuple(_corners_and_size(corners, label) for corners, label in _columns(value))
    return tuple(map(_box, _list(value, "boxes")))


def parse_polygons(value: object) -> tuple[Polygon, ...] | None:
    """Polygons from a list, or from JSON text of one; None and NaN are no polygons.

    Each is `[x0, y0, x1, y1, ...]`, `{"points": [x0, y0, ...]}` or COCO's `{"segmentation": [[x0, y0, ...], ...]}`,
    which is one polygon a part; the last two with a `label`, `category_id` or `category`.

    Raises:
        ValueError: anything else, run-length encoding, or fewer than three points.
    """
    value = _decoded(value)
    if value is None:
        return None
    return tuple(polygon for each in _list(value, "polygons") for polygon in _polygons(each))


def read_class_names(uri: str, access: Access) -> tuple[str, ...]:
    """The JSON list of distinct class names at `uri`; `access` is how S3 is reached.

    Raises:
        CorpusError: there is no such list.
        StorageError: it cannot be read.
    """
    try:
        names = json.loads(beside(uri, access).read(""))
    except (FileNotFoundError, PermissionError) as error:
        raise CorpusError(f"{redacted(uri)}: {_why(error)}. Correct corpus.classes_uri.") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{redacted(uri)}: not JSON ({error}). corpus.classes_uri needs a JSON list of class names."
        ) from error
    if not _are_class_names(names):
        raise CorpusError(f"{redacted(uri)}: expected a JSON list of distinct class names, got {str(names)[:80]}.")
    return tuple(names)


def _why(error: OSError) -> str:
    return "not found" if isinstance(error, FileNotFoundError) else "may not be read"


def _are_class_names(names: object) -> bool:
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return False
    return len(set(names)) == len(names) > 0


def _decoded(value: object) -> object:
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    return None if isinstance(value, float) and math.isnan(value) else value


def _list(value: object, of_what: str) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value
    raise ValueError(f"expected a list of {of_what}, got {str(value)[:40]}")


def _columns(value: Mapping[str, object]) -> list[tuple[object, object]]:
    if "bbox" not in value:
        raise ValueError(f"expected bbox among {', '.join(map(str, value))[:80]}")
    boxes = _list(value["bbox"], "boxes")
    given = _label_of(value)
    labels = [None] * len(boxes) if given is None else _list(given, "labels")
    if len(labels) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes with {len(labels)} labels")
    return list(zip(boxes, labels, strict=True))


def _box(value: object) -> Box:
    if isinstance(value, Mapping):
        if "box" in value:
            return _corners(_numbers(value["box"]), _label_of(value))
        return _corners_and_size(value.get("bbox"), _label_of(value))
    values = _list(value, "numbers")
    return _corners(_numbers(values[:4]), values[4] if len(values) == 5 else None, num_values=len(values))


def _corners_and_size(value: object, label: object) -> Box:
    numbers = _numbers(value)
    if len(numbers) != 4:
        raise ValueError(f"a bbox of {len(numbers)} numbers")
    x, y, width, height = numbers
    return _corners((x, y, x + width, y + height), label)


def _corners(corners: tuple[float, ...], label: object, *, num_values: int = 4) -> Box:
    if len(corners) != 4 or num_values > 5:
        raise ValueError(f"a box of {max(len(corners), num_values)} numbers")
    x0, y0, x1, y1 = corners
    if not (x0 < x1 < math.inf and y0 < y1 < math.inf):  # a sum of two finite numbers may not be
        raise ValueError(f"a box without area: {corners}")
    return Box(label=_label(label), corners=(x0, y0, x1, y1))


def _polygons(value: object) -> list[Polygon]:
    if not isinstance(value, Mapping):
        return [_polygon(value, None)]
    if "points" in value:
        return [_polygon(value["points"], _label_of(value))]
    return [_polygon(part, _label_of(value)) for part in _list(value.get("segmentation"), "polygon parts")]


def _polygon(value: object, label: object) -> Polygon:
    points = _numbers(value)
    if len(points) % 2 or len(points) < 6:
        raise ValueError(f"a polygon of {len(points)} numbers")
    return Polygon(label=_label(label), points=points)


def _numbers(value: object) -> tuple[float, ...]:
    numbers = []
    for each in _list(value, "numbers"):
        if isinstance(each, bool) or not isinstance(each, int | float) or not abs(each) <= MAX_NUMBER:
            raise ValueError(f"{str(each)[:40]} is no finite number")
        numbers.append(float(each))
    return tuple(numbers)


def _label_of(value: Mapping[str, object]) -> object:
    return next((value[key] for key in LABEL_KEYS if key in value), None)


def _label(value: object) -> int | None:
    """The index of a class; null, NaN and negative numbers, Hugging Face's -1 among them, are none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value > MAX_LABEL:
        raise ValueError(f"the label {str(value)[:40]} is no class")
    return int(value) if value >= 0 else None
