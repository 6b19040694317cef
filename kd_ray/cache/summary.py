"""One line about each view set and each output of a cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_ray.cache.catalog import Catalog, Entry
from kd_ray.cache.findings import Finding
from kd_ray.cache.records import Records, read_records
from kd_ray.cache.target_set import Output

ABSENT_VIEWS = "its views are not here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What `ls` tells of one entry; `units_wanted` are those of an output's views, None where nothing says."""

    path: str
    what: str
    units: int
    units_wanted: int | None
    views: int
    num_bytes: int
    newest_s: float | None
    state: str

    def to_json(self) -> dict[str, Any]:
        """As `--json` gives it; times in seconds since 1970."""
        return {
            "name": self.path,
            "what": self.what,
            "units": self.units,
            "units_wanted": self.units_wanted,
            "views": self.views,
            "bytes": self.num_bytes,
            "newest_commit_s": self.newest_s,
            "state": self.state,
        }


def summarize(catalog: Catalog) -> tuple[list[Line], list[Finding]]:
    """Lines in the catalog's order, and what was found wrong on the way; commit records are read, nothing else."""
    records = {path: read_records(entry.collection, use_manifests=True) for path, entry in catalog.entries.items()}
    of_view_set = {store.spec.fingerprint: records[path] for path, store in catalog.view_sets.items()}
    lines = [_line(path, entry, records[path], of_view_set) for path, entry in catalog.entries.items()]
    return lines, [*catalog.findings, *(finding for each in records.values() for finding in each.findings)]


def _line(path: str, entry: Entry, records: Records, of_view_set: Mapping[str, Records]) -> Line:
    wanted, units = None, len(records.newest)
    state = ""
    if isinstance(entry, Output):
        views = of_view_set.get(entry.target_set.identity["view_set"])
        state = ABSENT_VIEWS
        if views is not None:
            wanted = len(views.generations)
            units = len(records.newest.keys() & views.generations.keys())
            state = "complete" if units == wanted else f"{units} of {wanted} units"
    if records.findings:
        state = f"{state}, {len(records.findings)} bad records".removeprefix(", ")
    return Line(
        path=path,
        what=what_it_is(entry),
        units=units,
        units_wanted=wanted,
        views=records.num_views,
        num_bytes=records.num_bytes,
        newest_s=records.newest_s,
        state=state,
    )


def what_it_is(entry: Entry) -> str:
    """For people: the teacher's model and how an output is stored, or the views' seed and renderer."""
    if isinstance(entry, Output):
        model = entry.target_set.identity.get("teacher", {}).get("model", {})
        shape = "x".join(map(str, entry.shape))
        return f"{_model_title(model)}: {shape} {entry.coding.codec}".removeprefix(": ")
    identity = entry.spec.identity
    return ", ".join(f"{key} {identity[key]}" for key in ("seed", "renderer") if identity.get(key) is not None)


def _model_title(model: Mapping[str, Any]) -> str:
    return " ".join(str(model[key]) for key in ("name", "kind", "depth") if key in model and model[key] != "timm")
