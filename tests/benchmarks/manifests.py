"""What opening one output of many units asks of storage, from records alone and from manifests.

    python -m tests.benchmarks.manifests [--units 3000 100000] [--channels 16]

Requests and bytes are counted, and do not depend on the machine. At 1,536 channels records take 66 KB each, 100,000 of
them 7 GB of disk; what is read from manifests to open an output does not depend on channels.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kd_ray.cache.commits import Collection
from kd_ray.cache.fold import FOLD_EVERY, fold, seal
from kd_ray.storage import LocalStorage
from tests.support.many_commits import counting, many_units, write_records

OUT = Path("out/bench/manifests.json")


def measure(num_units: int, num_channels: int) -> dict[str, dict[str, float]]:
    """By what is done: requests, bytes read, and seconds of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection(storage=LocalStorage(folder), folder="output")
        units = many_units(num_units)
        write_records(collection, units, num_channels=num_channels)
        found = {"pin, from records": _counted(collection, lambda each: each.pin(units))}
        found["fold, 512 at a time"] = _counted(collection, lambda each: _fold(each, num_units))
        found["pin"] = _counted(collection, lambda each: each.pin(units))
        found["plan: nothing is missing"] = _counted(collection, lambda each: each.newest_generations(units))
        found["seal: nothing is left"] = _counted(collection, lambda each: seal(each, units))
        more = many_units(num_units + 1)
        found["plan: one unit is missing"] = _counted(collection, lambda each: each.newest_generations(more))
    return found


def _fold(collection: Collection, num_units: int) -> None:
    """As the driver of an extraction does it."""
    units = many_units(num_units)
    for start in range(0, num_units, FOLD_EVERY):
        fold(collection, dict.fromkeys(units[start : start + FOLD_EVERY], 0), held={})


def _counted(collection, work) -> dict[str, float]:  # type: ignore[no-untyped-def]
    counted, storage = counting(collection)
    start_s = time.process_time()
    work(counted)
    cpu_s = time.process_time() - start_s
    return {
        "objects read": storage.calls["read"],
        "listings": storage.calls["list"],
        "objects written": storage.calls["create"],
        "bytes read": storage.bytes_read,
        "cpu_s": round(cpu_s, 2),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, nargs="+", default=[3000])
    parser.add_argument("--channels", type=int, default=16)
    options = parser.parse_args(arguments)
    found = {num_units: measure(num_units, options.channels) for num_units in options.units}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2))
    table = Table(title=f"one output, {options.channels} channels")
    for heading in ("units", "", *next(iter(next(iter(found.values())).values()))):
        table.add_column(heading, justify="right" if heading else "left")
    for num_units, rows in found.items():
        for name, row in rows.items():
            table.add_row(f"{num_units:,}", name, *(f"{each:,}" for each in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
