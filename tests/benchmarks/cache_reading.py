"""Reading and writing targets: against NumPy's memmap and `np.save`, on the same bytes.

    python -m tests.benchmarks.cache_reading [--units 16] [--rounds 5]

A run reads through the order, the loading and the gathering of training (windows of 4 units, batches of 64 views),
without images. memmap has the stored values in one file, gathered by the same shuffle into the same memory.
Cold: the files were dropped from the page cache before. Writing: one unit after another, committed, against `np.save`
and fsync of the encoded values. All ways take turns. CPU time is that of the whole process. Also written to out/bench
as JSON.
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
from kd_ray.cache.order import Order
from kd_ray.cache.spec import output_spec, target_set_spec
from kd_ray.cache.stream import SnapshotSpan, SourceSpans, Window
from kd_ray.cache.target_set import Output, open_output
from kd_ray.cache.units import Span, Unit
from kd_ray.config.outputs import Codec
from kd_ray.training.targets import gathered

WINDOW, BATCH_SIZE, ROWS = 4, 64, 64
OUT = Path("out/bench")
SHAPES: Mapping[str, tuple[int, ...]] = {"spatial": (14, 14, 768), "summary": (768,), "logits": (1000,)}
KINDS: Sequence[tuple[str, Codec]] = (
    ("spatial", "float16"),
    ("spatial", "int8"),
    ("summary", "float16"),
    ("logits", "top_k"),
)
MIN_VIEWS = {"spatial": 0, "summary": 1 << 15, "logits": 1 << 15}  # small values: as many as can be timed
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
    folder: Path
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
        return Cost(num_bytes=count * self.bytes_of_unit, num_views=count * ROWS)

    def draws(self) -> Iterator[tuple[Window, int]]:
        """Every row of every unit once, in the order of a run."""
        spans = [SnapshotSpan(span=unit.span, rows=tuple(range(ROWS))) for unit in self.units]
        source = SourceSpans(name="", weight=1, spans=spans, recurrence=None)
        order = Order(sources=[source], seed=0, num_lanes=1, window=WINDOW)
        return islice(order.draws(0, skip=0), len(self.units) * ROWS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    tables: dict[str, dict[str, Cost]] = {}
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        for name, codec in KINDS:
            num_units = max(chosen.units, MIN_VIEWS[name] // ROWS)
            stored = store(Path(folder) / f"{name}-{codec}", name, codec, num_units=num_units)
            tables |= {f"{codec} {name}, {what}": costs for what, costs in measured(stored, chosen.rounds).items()}
            shutil.rmtree(stored.folder)
    for title, costs in tables.items():
        print_table(title, costs)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    Console().print(f"peak memory of the process: {peak_mb:,.0f} MB")
    values = {title: {name: asdict(cost) for name, cost in costs.items()} for title, costs in tables.items()}
    (OUT / "cache_reading.json").write_text(json.dumps({"peak_mb": peak_mb, **values}, indent=1))


def store(folder: Path, name: str, codec: Codec, *, num_units: int) -> Stored:
    """Units as `store_units` makes them, and their encoded values in one file."""
    stored = store_units(str(folder), name, codec, num_units=num_units)
    for array_name, array in stored.encoded.items():
        with stored.flat(array_name).open("wb") as file:
            for _ in stored.units:
                file.write(array.tobytes())
            file.flush()
            os.fsync(file.fileno())
    return stored


def store_units(cache_uri: str, name: str, codec: Codec, *, num_units: int) -> Stored:
    """Units of 64 rows and one view; all hold the same values, which no reader can know."""
    k = 10 if codec == "top_k" else None
    coding = Coding(codec=codec, shape=SHAPES[name], k=k, temperatures=(1.0, 2.0, 4.0) if k else ())
    target_set = target_set_spec("teacher", teacher={}, view_set_fingerprint="v" * 64, corpus_id="c")
    output = open_output(cache_uri, target_set, output_spec(name, coding=coding, stage=None), create=True)
    values_VND = np.random.default_rng(0).normal(size=(1, ROWS, *SHAPES[name])).astype(np.float32)
    if coding.needs_calibration:
        output.calibrate(values_VND)
    encoded = coding.encode(values_VND, calibration=output.fixed_calibration(), what=name)
    units = [_unit(number) for number in range(num_units)]
    for unit in units:
        output.write(unit, values_VND, ids_of(unit), attempt="first")
    return Stored(output=output, units=units, folder=Path(cache_uri), encoded=encoded)


def _unit(number: int) -> Unit:
    span = Span(shard="train-00000", group_start=number, group_stop=number + 1)
    return Unit(span=span, view_start=0, view_stop=1)


def ids_of(unit: Unit) -> NDArray[np.uint64]:
    """The samples of a unit."""
    return np.arange(ROWS, dtype=np.uint64) + np.uint64(unit.span.group_start * ROWS)


def measured(stored: Stored, num_rounds: int) -> dict[str, dict[str, Cost]]:
    """Costs by table and way; a round of warm-up does not count."""
    warm, cold = ({way: stored.cost() for way in (OURS, MEMMAP)} for _ in range(2))
    num_written = min(len(stored.units), 16)
    written = {way: stored.cost(num_units=num_written) for way in (OURS, SAVE)}
    ways = {OURS: lambda: read_cache(stored), MEMMAP: lambda: read_memmap(stored)}
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


def read_cache(stored: Stored) -> None:
    """As training does: spans are loaded when the window comes to them, rows are gathered into batches."""
    commits = stored.output.collection.commits()
    for batch in _batches(stored.draws()):
        rows = []
        for window, place, loaded in batch:
            index = int(window.span_indices[place])
            if index not in loaded:
                unit = stored.units[index]
                loaded[index] = stored.output.read_encoded(commits[unit], view_index=0, sample_ids=ids_of(unit))
            rows.append((loaded[index], int(window.rows[place])))
        for name in stored.encoded:
            gathered([arrays[name][row] for arrays, row in rows])


def _batches(draws: Iterator[tuple[Window, int]]) -> Iterator[list[tuple[Window, int, dict[int, Any]]]]:
    opened: tuple[Window | None, dict[int, Any]] = (None, {})
    batch = []
    for window, place in draws:
        if opened[0] is not window:
            opened = (window, {})
        batch.append((window, place, opened[1]))
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []


def read_memmap(stored: Stored) -> None:
    """The same rows in the same order, from one file for each array, into the same memory."""
    arrays = {
        name: np.memmap(stored.flat(name), dtype=array.dtype, mode="r").reshape(-1, *array.shape[2:])
        for name, array in stored.encoded.items()
    }
    batches = {name: np.empty((BATCH_SIZE, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    for number, (window, place) in enumerate(stored.draws()):
        index = int(window.span_indices[place]) * ROWS + int(window.rows[place])
        for name, array in arrays.items():
            batches[name][number % BATCH_SIZE] = array[index]


def write_cache(stored: Stored, folder: Path, *, num_units: int) -> None:
    """Encoded arrays as committed units; what encoding costs is the codec's."""
    target_set, spec = stored.output.target_set, stored.output.spec
    output = open_output(str(folder), target_set, spec, create=True)
    values_VND = stored.output.coding.decode(
        {name: array[0] for name, array in stored.encoded.items()}, calibration=stored.output.calibration()
    ).astype(np.float32)[None]
    if output.coding.needs_calibration:
        output.calibrate(values_VND)
    for unit in stored.units[:num_units]:
        output.write(unit, values_VND, ids_of(unit), attempt="first")


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
