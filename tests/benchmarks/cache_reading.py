"""Reading and writing targets: against NumPy's memmap and `np.save`, on the same bytes.

    python -m tests.benchmarks.cache_reading [--mb 600] [--rounds 5]

Units are cut as the plan cuts them for shards of 16 row groups of 64 samples. A round reads every view of every sample
once, through the order and the gathering of training (windows of 4 spans, batches of 64 views), without images. memmap
has the stored values in one file, gathered by the same shuffle into the same memory. Cold: the files were dropped from
the page cache before. Writing: one unit after another, committed, against `np.save` and fsync of the encoded values.
All ways take turns. CPU time is that of the whole process. Also written to out/bench as JSON.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kd_ray.cache.codecs import Coding
from kd_ray.cache.commits import Commit
from kd_ray.cache.order import Order
from kd_ray.cache.plan import Grid, choose_grid
from kd_ray.cache.spec import output_spec, target_set_spec
from kd_ray.cache.stream import SnapshotSpan, SourceSpans, Window
from kd_ray.cache.target_set import Output, open_output
from kd_ray.cache.units import Span, Unit
from kd_ray.config.outputs import Codec
from kd_ray.training.targets import gathered

WINDOW, BATCH_SIZE = 4, 64
ROW_GROUP_SIZE, SHARD_ROW_GROUPS = 64, 16
OUT = Path("out/bench")
SHAPES: Mapping[str, tuple[int, ...]] = {"spatial": (14, 14, 768), "summary": (768,), "logits": (1000,)}
KINDS: Sequence[tuple[str, Codec]] = (
    ("spatial", "float16"),
    ("spatial", "int8"),
    ("summary", "float16"),
    ("logits", "top_k"),
)
WRITTEN_BYTES = 160_000_000
MAX_VIEWS = 1 << 17  # of small values: more tell no more
OURS, MEMMAP, SAVE = "kd_ray", "memmap", "np.save + fsync"

Work = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one way over `num_bytes` of stored values of `num_views` views: an entry a round."""

    num_bytes: int
    num_views: int
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)

    def time(self, work: Work) -> None:
        """One round more."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        work()
        self.cpu_s.append(time.process_time() - cpu_s)
        self.wall_s.append(time.perf_counter() - wall_s)

    def row(self, name: str) -> Sequence[str]:
        """For the table."""
        cpu, wall = statistics.median(self.cpu_s), statistics.median(self.wall_s)
        rates = (f"{self.num_bytes / wall / 1e6:,.0f}", f"{self.num_views / wall:,.0f}")
        return (name, f"{cpu / self.num_bytes * 1e9:.3f}", *rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One output on the local disk, its units, and their encoded values in one file."""

    output: Output
    units: Sequence[Unit]
    grid: Grid
    folder: Path
    values_VND: NDArray[np.float32]
    encoded: Mapping[str, NDArray[Any]]

    @property
    def files(self) -> Sequence[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    @property
    def bytes_of_unit(self) -> int:
        return sum(array.nbytes for array in self.encoded.values())

    def flat(self, name: str) -> Path:
        return self.folder / f"{name}.flat"

    def cost(self, *, num_units: int | None = None) -> Cost:
        count = len(self.units) if num_units is None else num_units
        return Cost(num_bytes=count * self.bytes_of_unit, num_views=count * self.grid.unit_views * self.num_rows)

    @property
    def views(self) -> Sequence[tuple[Unit, int]]:
        """What is one range each."""
        return [(unit, view) for unit in self.units for view in range(self.grid.unit_views)]

    @property
    def num_rows(self) -> int:
        """Of a unit."""
        return self.grid.unit_row_groups * ROW_GROUP_SIZE

    def draws(self) -> Iterator[tuple[Window, int]]:
        """Every view of every row of every unit once, in the order of a run."""
        spans = [SnapshotSpan(span=unit.span, rows=tuple(range(self.num_rows))) for unit in self.units]
        source = SourceSpans(name="", weight=1, spans=spans, recurrence=None)
        order = Order(sources=[source], seed=0, num_lanes=1, window=WINDOW)
        return islice(order.draws(0, skip=0), len(self.units) * self.grid.unit_views * self.num_rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=600, help="stored of each output, at most")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    tables: dict[str, dict[str, Cost]] = {}
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        for name, codec in KINDS:
            stored = store(Path(folder) / f"{name}-{codec}", name, codec, num_bytes=chosen.mb * 1_000_000)
            tables |= {f"{codec} {name}, {what}": costs for what, costs in measured(stored, chosen.rounds).items()}
            shutil.rmtree(stored.folder)
    for title, costs in tables.items():
        print_table(title, costs)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    Console().print(f"peak memory of the process: {peak_mb:,.0f} MB")
    values = {title: {name: asdict(cost) for name, cost in costs.items()} for title, costs in tables.items()}
    (OUT / "cache_reading.json").write_text(json.dumps({"peak_mb": peak_mb, **values}, indent=1))


def store(folder: Path, name: str, codec: Codec, *, num_bytes: int) -> Stored:
    """Units as `store_units` makes them, and their encoded values in one file."""
    stored = store_units(str(folder), name, codec, num_bytes=num_bytes)
    for array_name, array in stored.encoded.items():
        with stored.flat(array_name).open("wb") as file:
            for _ in stored.units:
                file.write(array.tobytes())
            file.flush()
            os.fsync(file.fileno())
    return stored


def store_units(cache_uri: str, name: str, codec: Codec, *, num_bytes: int) -> Stored:
    """Units of that many bytes or MAX_VIEWS views; all hold the same values, which no reader can know."""
    k = 10 if codec == "top_k" else None
    coding = Coding(codec=codec, shape=SHAPES[name], k=k, temperatures=(1.0, 2.0, 4.0) if k else ())
    grid = choose_grid(
        widest_bytes_per_view=coding.bytes_per_view,
        row_group_size=ROW_GROUP_SIZE,
        shard_row_groups=SHARD_ROW_GROUPS,
        unit_row_groups=None,
        unit_views=None,
    )
    views_per_unit = grid.unit_views * grid.unit_row_groups * ROW_GROUP_SIZE
    num_units = max(min(num_bytes // coding.bytes_per_view, MAX_VIEWS) // views_per_unit, WINDOW)
    target_set = target_set_spec("teacher", teacher={}, view_set_fingerprint="v" * 64, corpus_id="c")
    output = open_output(cache_uri, target_set, output_spec(name, coding=coding, stage=None), create=True)
    units = [_unit(number, grid) for number in range(num_units)]
    values_VND = (
        np.random.default_rng(0)
        .normal(size=(grid.unit_views, grid.unit_row_groups * ROW_GROUP_SIZE, *SHAPES[name]))
        .astype(np.float32)
    )
    if coding.needs_calibration:
        output.calibrate(values_VND)
    encoded = coding.encode(values_VND, calibration=output.fixed_calibration(), what=name)
    for unit in units:
        output.write(unit, values_VND, ids_of(unit), attempt="first")
    return Stored(output=output, units=units, grid=grid, folder=Path(cache_uri), values_VND=values_VND, encoded=encoded)


def _unit(number: int, grid: Grid) -> Unit:
    groups = grid.unit_row_groups
    span = Span(shard="train-00000", group_start=number * groups, group_stop=(number + 1) * groups)
    return Unit(span=span, view_start=0, view_stop=grid.unit_views)


def ids_of(unit: Unit) -> NDArray[np.uint64]:
    """The samples of a unit."""
    return np.arange(unit.span.group_start * ROW_GROUP_SIZE, unit.span.group_stop * ROW_GROUP_SIZE, dtype=np.uint64)


def measured(stored: Stored, num_rounds: int) -> dict[str, dict[str, Cost]]:
    """Costs by table and way; a round of warm-up does not count."""
    warm, cold = ({way: stored.cost() for way in (OURS, MEMMAP)} for _ in range(2))
    num_written = max(min(len(stored.units), WRITTEN_BYTES // stored.bytes_of_unit), 1)
    written = {way: stored.cost(num_units=num_written) for way in (OURS, SAVE)}
    commits = stored.output.collection.commits()
    ways = {OURS: lambda: read_cache(stored, commits), MEMMAP: lambda: read_memmap(stored)}
    for way in ways.values():
        way()
    for number in range(num_rounds):
        for name, way in ways.items():
            warm[name].time(way)
        for name, way in ways.items():
            drop(stored.files)
            cold[name].time(way)
        copies = [stored.folder / f"round-{number}-{way}" for way in written]
        written[OURS].time(lambda: write_cache(stored, copies[0], num_units=num_written))  # noqa: B023
        written[SAVE].time(lambda: write_arrays(stored, copies[1], num_units=num_written))  # noqa: B023
        for copy in copies:
            shutil.rmtree(copy)
    return {"warm": warm, "cold": cold, "writing": written}


def read_cache(stored: Stored, commits: Mapping[Unit, Commit]) -> None:
    """As training does: a view of a span is loaded when the window comes to it, rows are gathered into batches."""
    opened: tuple[Window | None, dict[tuple[int, int], dict[str, NDArray[Any]]]] = (None, {})
    batch: list[tuple[dict[str, NDArray[Any]], int]] = []
    for window, place in stored.draws():
        if opened[0] is not window:
            opened = (window, {})
        key = int(window.span_indices[place]), int(window.occurrences[place]) % stored.grid.unit_views
        if key not in opened[1]:
            unit = stored.units[key[0]]
            opened[1][key] = stored.output.read_encoded(commits[unit], view_index=key[1], sample_ids=ids_of(unit))
        batch.append((opened[1][key], int(window.rows[place])))
        if len(batch) == BATCH_SIZE:
            for name in stored.encoded:
                gathered([(arrays[name], row) for arrays, row in batch])
            batch = []


def read_memmap(stored: Stored) -> None:
    """The same rows in the same order, from one file for each array, into the same memory."""
    arrays = {
        name: np.memmap(stored.flat(name), dtype=array.dtype, mode="r").reshape(-1, *array.shape)
        for name, array in stored.encoded.items()
    }
    batches = {name: np.empty((BATCH_SIZE, *array.shape[2:]), array.dtype) for name, array in stored.encoded.items()}
    for number, (window, place) in enumerate(stored.draws()):
        view_index = int(window.occurrences[place]) % stored.grid.unit_views
        index = int(window.span_indices[place]), view_index, int(window.rows[place])
        for name, array in arrays.items():
            batches[name][number % BATCH_SIZE] = array[index]


def write_cache(stored: Stored, folder: Path, *, num_units: int) -> None:
    """The values as committed units: encoded, with their statistics."""
    output = open_output(str(folder), stored.output.target_set, stored.output.spec, create=True)
    if output.coding.needs_calibration:
        shutil.copy(*(Path(each.calibration_location) for each in (stored.output, output)))
    for unit in stored.units[:num_units]:
        output.write(unit, stored.values_VND, ids_of(unit), attempt="first")


def write_arrays(stored: Stored, folder: Path, *, num_units: int) -> None:
    """The same encoded arrays by NumPy."""
    folder.mkdir()
    for unit in stored.units[:num_units]:
        for name, array in stored.encoded.items():
            with (folder / f"{unit.id}-{name}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())


def drop(files: Sequence[Path]) -> None:
    """Out of the page cache, as far as the system does it when it is told."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def print_table(title: str, costs: Mapping[str, Cost]) -> None:
    ours, theirs = costs.values()
    table = Table(title=title)
    for column in ("", "CPU s/GB", "MB/s", "views/s"):
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        table.add_row(*cost.row(name))
    cpu = sorted(a / b for a, b in zip(ours.cpu_s, theirs.cpu_s, strict=True))
    wall = sorted(b / a for a, b in zip(ours.wall_s, theirs.wall_s, strict=True))
    console = Console(width=120)
    console.print(table)
    console.print(
        f"CPU {statistics.median(cpu):.2f} ({cpu[0]:.2f} to {cpu[-1]:.2f}) times, "
        f"rate {statistics.median(wall):.2f} ({wall[0]:.2f} to {wall[-1]:.2f}) times that of {list(costs)[1]}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
