"""The objects of one committed unit, read whole, against its record. Pure: bytes in, what is wrong out."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from kd_ray.cache.arrays import ArrayLayout, decode_view, ranges_of
from kd_ray.cache.commits import Commit
from kd_ray.cache.kept_pixels import HOW_TO_REPAIR, kept_sample_ids, read_footer, read_kept
from kd_ray.cache.target_set import SAMPLE_IDS, Output, members_digest
from kd_ray.cache.view_store import PIXELS_OBJECT, VIEWS_OBJECT, ViewStore
from kd_ray.errors import CacheCorrupt
from kd_ray.storage.checksum import crc32c
from kd_ray.storage.range_file import RangeFile
from kd_ray.views import decode_views

Problem = tuple[str, str]  # the object's name inside the attempt, and a sentence or two


def check_output_objects(output: Output, commit: Commit, objects: Mapping[str, bytes]) -> Iterator[Problem]:
    """What is wrong with one unit of targets; objects that could not be read are left out of `objects`."""
    damaged = dict(_check_sums(commit, objects))
    for name, layout in commit.arrays.items():
        object_name = layout.object_name
        if object_name not in objects:
            if object_name not in commit.objects:
                yield object_name, f"holds the array {name}, but is not among the objects of the record."
            continue
        problem = _problem_of_array(name, layout, objects[object_name], output=output, commit=commit)
        if problem is not None:
            damaged[object_name] = f"{damaged.get(object_name, '')} {problem}".strip()
    if SAMPLE_IDS not in commit.arrays or "values" not in commit.arrays:
        yield (
            "zarr.json",
            f"the record has arrays {', '.join(commit.arrays) or 'none'}, without {SAMPLE_IDS} or values.",
        )
    yield from damaged.items()


def check_view_objects(store: ViewStore, commit: Commit, objects: Mapping[str, bytes]) -> Iterator[Problem]:
    """What is wrong with one unit of views: their table, and their pixels where they are kept."""
    wrong = dict(_check_sums(commit, objects))
    yield from wrong.items()
    sound = {name: data for name, data in objects.items() if name not in wrong}
    yield from _problems_of_views(commit, sound)
    if store.spec.identity.get("kept") is not None:
        yield from _problems_of_pixels(commit, sound)


def _problems_of_views(commit: Commit, objects: Mapping[str, bytes]) -> Iterator[Problem]:
    if VIEWS_OBJECT not in commit.objects:
        yield VIEWS_OBJECT, "is not among the objects of the record."
    if VIEWS_OBJECT in objects:
        try:
            rows = decode_views(objects[VIEWS_OBJECT])
        except CacheCorrupt as error:
            yield VIEWS_OBJECT, str(error)
            return
        unit = commit.unit
        sample_ids = np.array([row.sample_id for row in rows[: commit.num_rows]], np.uint64)
        expected = [(view, each) for view in range(unit.view_start, unit.view_stop) for each in sample_ids.tolist()]
        if [(row.view_index, row.sample_id) for row in rows] != expected:
            yield VIEWS_OBJECT, f"its rows are not the {commit.num_rows} samples of each view of the unit in turn."
        elif members_digest(sample_ids) != commit.members_digest:
            yield VIEWS_OBJECT, "its sample ids are not those that the record tells of."


def _problems_of_pixels(commit: Commit, objects: Mapping[str, bytes]) -> Iterator[Problem]:
    """The footer, each page and each view's pixels against their checksums, the samples of each view in turn."""
    if PIXELS_OBJECT not in commit.objects or PIXELS_OBJECT not in commit.footers:
        yield PIXELS_OBJECT, "is not among the objects and the footers of the record, though its view set keeps pixels."
    elif PIXELS_OBJECT in objects:
        data, unit = objects[PIXELS_OBJECT], commit.unit
        file = RangeFile(lambda start, stop: data[start:stop], size_bytes=len(data))
        try:
            footer = read_footer(file, commit.footers[PIXELS_OBJECT], location=PIXELS_OBJECT)
            sample_ids = kept_sample_ids(file, footer)
            for view in range(unit.view_start, unit.view_stop):
                read_kept(file, footer, unit, view_index=view, sample_ids=sample_ids, location=PIXELS_OBJECT)
        except (CacheCorrupt, pa.ArrowException, OSError) as error:
            yield PIXELS_OBJECT, str(error).removeprefix(f"{PIXELS_OBJECT}: ").removesuffix(HOW_TO_REPAIR).rstrip()
            return
        if members_digest(sample_ids) != commit.members_digest:
            yield PIXELS_OBJECT, "its sample ids are not those that the record tells of."


def _check_sums(commit: Commit, objects: Mapping[str, bytes]) -> Iterator[Problem]:
    """Every object read against size and crc32c of the record."""
    for name, data in objects.items():
        size, crc = commit.objects[name]
        if len(data) != size:
            yield name, f"got {len(data)} bytes, expected {size}."
        elif (actual := crc32c(data)) != crc:
            yield name, f"crc32c is {actual:08x}, expected {crc:08x}: its bytes have changed since they were written."


def _problem_of_array(name: str, layout: ArrayLayout, data: bytes, *, output: Output, commit: Commit) -> str | None:
    """The first thing that is wrong with one array: ranges, shape, the checksum of a view, the sample ids."""
    num_views = 1 if name == SAMPLE_IDS else commit.unit.num_views
    if layout.shape[:2] != (num_views, commit.num_rows) or len(layout.ranges) != num_views:
        shape, num_ranges = list(layout.shape), len(layout.ranges)
        return f"has the shape {shape} in {num_ranges} ranges; expected {num_views} views of {commit.num_rows} samples."
    expected = _value_shape(output) if name == "values" else None
    if expected is not None and layout.shape[2:] != expected:
        return f"a value has the shape {list(layout.shape[2:])}, expected {list(expected)}."
    bad_views = []
    for index, (offset, length) in enumerate(layout.ranges):
        try:
            encoded = np.frombuffer(data[offset : offset + length], dtype=np.uint8)
            decoded = decode_view(encoded, layout, location=name)
        except CacheCorrupt:
            bad_views.append(commit.unit.view_start + index)
            continue
        if name == SAMPLE_IDS and members_digest(decoded) != commit.members_digest:
            return "its sample ids are not those that the record tells of."
    if bad_views:
        return f"The checksum is wrong of {'the ids' if name == SAMPLE_IDS else f'view {_listed(bad_views)}'}."
    if ranges_of(data, num_views) != layout.ranges:
        return "Its index of views is not that of the record."
    return None


def _value_shape(output: Output) -> tuple[int, ...] | None:
    """Of what is stored of one view; None where the codec decides it, or nothing tells how many coefficients it has."""
    if output.coding.codec == "top_k":
        return None
    if output.coding.explained_variance is None:
        return output.shape
    try:
        return output.coding.as_stored(output.calibration()).shape
    except CacheCorrupt:  # a finding of its own
        return None


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
