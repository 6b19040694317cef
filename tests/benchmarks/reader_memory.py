"""Memory of a process that reads targets, of a small cache and of one four times as large.

    python -m tests.benchmarks.reader_memory [--units 4]

A unit has 4 ranges of 64 views of float16 spatial features (19 MB), a window 4 ranges; all are read once through the
loading and the gathering of training, without images, each cache by a process of its own. Also written to out/bench as
JSON.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from kd_ray.cache.stream import Window
from kd_ray.corpus.packed import Rows
from kd_ray.training.loading import OPEN_WINDOWS, LoadedSpan, Loader, Place
from kd_ray.training.targets import gathered
from kd_ray.training.views import ReplayedViews
from tests.benchmarks.cache_reading import BATCH_SIZE, OUT, WINDOW, Stored, ids_of, store_units
from tests.support.tiny_world import POLICY

TIMES = 4
UNIT_BYTES = 78_000_000
KEY = ("teacher", "spatial")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=4)
    chosen = parser.parse_args(arguments)
    OUT.mkdir(parents=True, exist_ok=True)
    console, peaks_mb = Console(width=120), {}
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        stored = store_units(
            str(Path(folder) / "cache"), "spatial", "float16", num_bytes=TIMES * chosen.units * UNIT_BYTES
        )
        for num_units in (0, chosen.units, TIMES * chosen.units):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as own_process:
                part = replace(stored, units=stored.units[:num_units], values_VND=np.empty(0, np.float32), encoded={})
                peaks_mb[num_units] = own_process.submit(peak_mb_of_reading, part).result()
            console.print(f"{num_units:>4} units: peak {peaks_mb[num_units]:,.0f} MB", highlight=False)
    windows_mb = OPEN_WINDOWS * WINDOW * stored.bytes_of_unit / stored.grid.unit_views / 1e6
    console.print(f"the window and the next one: {windows_mb:,.0f} MB", highlight=False)
    values = {"windows_mb": windows_mb, "peaks_mb": peaks_mb}
    (OUT / "reader_memory.json").write_text(json.dumps(values, indent=1))


def peak_mb_of_reading(stored: Stored) -> float:
    """The most memory that this process has had, after reading all units once."""
    if stored.units:
        read(stored)
    # not ru_maxrss, in which a process begins with what its parent had
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


def read(stored: Stored) -> None:
    """Every row once, gathered into batches."""
    commits = stored.output.collection.commits()

    def places(window: Window, place: int) -> tuple[Place, ...]:
        view_index = int(window.occurrences[place]) % stored.grid.unit_views
        return (Place(source=0, span_index=int(window.span_indices[place]), kind=0, view_index=view_index),)

    def read_rows(place: Place) -> Rows:
        none = np.empty(0, np.int32)
        ids = ids_of(stored.units[place.span_index])
        return Rows(sample_ids=ids, labels=none, sizes_px=none.reshape(0, 2), images=[], rows_per_group=(len(ids),))

    def load(place: Place, rows: Rows) -> LoadedSpan:
        unit = stored.units[place.span_index]
        arrays = stored.output.read_encoded(commits[unit], view_index=place.view_index, sample_ids=rows.sample_ids)
        views = ReplayedViews(policy=POLICY, seed=0, kept=None).load(unit.span, place.view_index, rows)
        return LoadedSpan(rows=rows, views=views, label_of={}, view_index=place.view_index, targets={KEY: arrays})

    with Loader(places=places, read_rows=read_rows, load=load) as loader:
        rows = []
        for window, place, (loaded,) in loader.drawn(stored.draws()):
            rows.append((loaded.targets[KEY], int(window.rows[place])))
            if len(rows) == BATCH_SIZE:
                for name in rows[0][0]:
                    gathered([(arrays[name], row) for arrays, row in rows])
                rows = []


if __name__ == "__main__":
    main()
