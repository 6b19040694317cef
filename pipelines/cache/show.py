"""`kd-ray cache show`: one view set or output in full."""

import json
from typing import Any

import numpy as np
from rich.console import Console

from kd_ray.cache.catalog import Entry, read_catalog
from kd_ray.cache.records import Records, read_records
from kd_ray.cache.statistics import ChannelStatistics
from kd_ray.cache.target_set import Output
from kd_ray.cache.transforms import transforms_of
from kd_ray.telemetry.units import human_bytes
from pipelines.cache.told import findings_json, print_findings, print_json

SHOWN_UNITS = 20


def show_entry(uri: str, name: str, *, console: Console, as_json: bool) -> None:
    """Print identity, grid or shape, statistics over all channels, and the size of every unit.

    Raises:
        RecipeError: `name` is none of the cache, or several.
    """
    catalog = read_catalog(uri)
    path, entry = catalog.one(name, catalog.entries)
    records = read_records(entry.collection, use_manifests=True)
    document = _document(path, entry, records)
    if as_json:
        print_json({**document, "findings": findings_json(records.findings)})
        return
    units = document.pop("units")
    console.print(json.dumps(document, indent=2), markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(units)} units, {records.num_views:,} views, {human_bytes(records.num_bytes)}", highlight=False)
    for unit, each in list(units.items())[:SHOWN_UNITS]:
        generation = f", generation {each['generation']}" if each["generation"] else ""
        console.print(f"  {unit}: {each['rows']} rows, {human_bytes(each['bytes'])}{generation}", highlight=False)
    if len(units) > SHOWN_UNITS:
        console.print(f"  and {len(units) - SHOWN_UNITS} more (--json has all)", highlight=False)
    print_findings(console, records.findings)


def _document(path: str, entry: Entry, records: Records) -> dict[str, Any]:
    document: dict[str, Any] = {"name": path, "fingerprint": entry.spec.fingerprint, "identity": entry.spec.identity}
    if isinstance(entry, Output):
        document["target_set"] = entry.target_set.identity
        document |= _as_stored(entry)
        transforms = transforms_of(entry)
        document |= {"transforms": transforms} if transforms else {}
        if records.newest:
            document["statistics"] = _in_short(entry.statistics(records.newest.values()))
    else:
        document["recorded"] = {
            "unit_row_groups": entry.grid.unit_row_groups,
            "unit_views": entry.grid.unit_views,
        }
    document["units"] = {
        unit.id: {"rows": each.num_rows, "bytes": each.num_bytes, "generation": each.generation}
        for unit, each in records.newest.items()
    }
    return document


def _as_stored(output: Output) -> dict[str, Any]:
    """What a view takes, and what a basis leaves out as far as its calibrating views tell."""
    calibration = output.calibration() if output.coding.explained_variance is not None else None
    told: dict[str, Any] = {"bytes_per_view": output.coding.as_stored(calibration).bytes_per_view}
    if calibration is not None and calibration.basis is not None:
        basis = calibration.basis
        told["basis"] = {
            "components": len(basis.directions_kD),
            "unexplained_variance": basis.unexplained,
            "tokens": basis.num_tokens,
        }
    return told


def _in_short(statistics: ChannelStatistics) -> dict[str, Any]:
    """Of the channels' own statistics: how many values each has, and the range over the channels."""
    deviation_D = np.sqrt(statistics.variance)
    return {
        "channels": len(statistics.mean),
        "values_per_channel": statistics.count,
        "mean": [float(statistics.mean.min()), float(statistics.mean.max())],
        "deviation": [float(deviation_D.min()), float(deviation_D.max())],
        "constant_channels": int((statistics.variance == 0).sum()),
        "minimum": float(statistics.minimum.min()),
        "maximum": float(statistics.maximum.max()),
    }
