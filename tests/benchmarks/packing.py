"""Packing: its speed against a plain loop over the same files, its memory at two sizes, and the time to open a corpus.

    python -m tests.benchmarks.packing speed  [--images FOLDER] [--files 30000]
    python -m tests.benchmarks.packing memory [--sizes 10000 200000]
    python -m tests.benchmarks.packing open   [--samples 1000000]

Speed: JPEGs (those of FOLDER, each made distinct by a comment; default: drawn ones of 480x360) are read, hashed and
written to one file by a plain loop, and packed through Ray Data on the machine's cores; the two take turns. Memory:
tiny PNGs, a fresh process and cluster for each size. Every table is also written to out/bench as JSON.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from kd_ray.config.corpus import Cluster, FolderCorpus, ParquetCorpus
from kd_ray.corpus.packed import open_corpus
from kd_ray.corpus.packing.pack import Listed, PackResult, list_sources, pack_listed
from kd_ray.engine.session import RaySession

ROUNDS = 5
NUM_APPENDED = 20
OUT = Path("out/bench")
SPLIT = {"kind": "hash", "test_fraction": 0.01}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the first argument names; without one, the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    speed_parser = commands.add_parser("speed")
    speed_parser.add_argument("--images", type=Path)
    speed_parser.add_argument("--files", type=int, default=30_000)
    memory_parser = commands.add_parser("memory")
    memory_parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 200_000])
    memory_parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    open_parser = commands.add_parser("open")
    open_parser.add_argument("--samples", type=int, default=1_000_000)
    chosen = parser.parse_args(arguments)
    match chosen.command:
        case "speed":
            speed(chosen.images, num_files=chosen.files)
        case "memory" if chosen.measure is not None:
            _measure_memory(chosen.measure)
        case "memory":
            memory(chosen.sizes)
        case "open":
            opening(chosen.samples)


def speed(images: Path | None, *, num_files: int) -> None:
    """Packing against the plain loop, in turns."""
    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as name:
        folder = Path(name)
        total = _write_jpegs(folder / "images", images, num_files)
        with RaySession(Cluster(temp_dir=str(folder / "ray"))) as session:
            session.start()
            _pack(folder, "warm")  # workers start and import once
            plain: list[tuple[float, float]] = []
            packed: list[tuple[float, float]] = []
            for number in range(ROUNDS):
                os.sync()  # what one of them left to be written must not slow the other
                plain.append(_timed(lambda: _plain_loop(folder / "images", folder / "plain")))
                os.sync()
                packed.append(_timed(lambda at=number: _pack(folder, f"packed{at}")))
                shutil.rmtree(folder / f"packed{number}")
    rows = {
        name: {
            "wall_s": statistics.median(wall for wall, _ in times),
            "cpu_s": statistics.median(cpu for _, cpu in times),
        }
        for name, times in (("plain loop", plain), ("kd_ray pack", packed))
    }
    ratios = [loop[0] / ours[0] for loop, ours in zip(plain, packed, strict=True)]
    table = Table(title=f"{num_files:,} JPEGs, {total / 1e6:,.0f} MB, {os.cpu_count()} cores, median of {ROUNDS}")
    for column in ("", "wall s", "images/s", "CPU s"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, f"{row['wall_s']:.2f}", f"{num_files / row['wall_s']:,.0f}", f"{row['cpu_s']:.2f}")
    Console().print(table)
    Console().print(
        f"packing reaches {statistics.median(ratios):.2f} of the plain loop's rate ({min(ratios):.2f} to "
        f"{max(ratios):.2f})",
        highlight=False,
    )
    _write_json("packing_speed", {"files": num_files, "bytes": total, "rows": rows, "ratios": ratios})


def memory(sizes: Sequence[int]) -> None:
    """Peak memory of the driver and of the greatest worker at two sizes, packing and then appending a few samples."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as name:
            images = Path(name) / "images"
            for work, numbers in (("pack", range(size)), ("append", range(size, size + NUM_APPENDED))):
                _write_tiny_pngs(images, numbers)
                command = [sys.executable, "-m", "tests.benchmarks.packing", "memory", "--measure", name]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[work, size] = json.loads(done.stdout.splitlines()[-1])
    table = Table(title="peak memory of packing tiny PNGs, MiB")
    for column in ("", "samples", "driver", "greatest worker", "seconds"):
        table.add_column(column, justify="right")
    for (work, size), row in found.items():
        driver, worker = row["driver_kib"] / 1024, row["worker_kib"] / 1024
        table.add_row(work, f"{size:,}", f"{driver:,.0f}", f"{worker:,.0f}", f"{row['seconds']:.1f}")
    Console().print(table)
    small, large = sizes
    growth = {
        work: (found[work, large]["driver_kib"] - found[work, small]["driver_kib"]) * 1024 / (large - small)
        for work in ("pack", "append")
    }
    Console().print(
        f"the driver grows by {growth['pack']:.0f} bytes a sample to pack, {growth['append']:.0f} to append",
        highlight=False,
    )
    measured = {f"{work} {size}": row for (work, size), row in found.items()}
    _write_json("packing_memory", {"measured": measured, "bytes_a_sample": growth})


def opening(num_samples: int) -> None:
    """Pack so many tiny samples, then open the corpus and read its labels."""
    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as name:
        folder = Path(name)
        _write_tiny_parquet(folder / "images.parquet", num_samples)
        config = ParquetCorpus(
            kind="parquet", uri=str(folder / "images.parquet"), packed_uri=str(folder / "packed"), split=SPLIT
        )
        with RaySession(Cluster(temp_dir=str(folder / "ray"))) as session:
            session.start()
            result = _on_ray(list_sources(config), config)
        times = []
        for _ in range(ROUNDS):
            start_s = time.perf_counter()
            corpus = open_corpus(config.packed_uri)
            times.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        corpus.members("train")
        members_s = time.perf_counter() - start_s
    Console().print(
        f"{result.num_packed:,} samples in {len(corpus.commits):,} shards: opened in {statistics.median(times):.3f} s "
        f"(median of {ROUNDS}); all ids and labels read in {members_s:.2f} s",
        highlight=False,
    )
    _write_json("packing_open", {"samples": result.num_packed, "open_s": times, "members_s": members_s})


def _measure_memory(folder: Path) -> None:
    config = FolderCorpus(kind="folder", uri=str(folder / "images"), packed_uri=str(folder / "packed"), split=SPLIT)
    with RaySession(Cluster(temp_dir=str(folder / "ray"))) as session:
        session.start()
        start_s = time.perf_counter()
        result = _on_ray(list_sources(config), config)
        seconds = time.perf_counter() - start_s
        worker_kib = max(_peak_kib(pid) for pid in _descendants(os.getpid()) if _is_worker(pid))
    assert result.num_packed > 0
    driver_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"driver_kib": driver_kib, "worker_kib": worker_kib, "seconds": seconds}))


def _pack(folder: Path, name: str) -> PackResult:
    config = FolderCorpus(kind="folder", uri=str(folder / "images"), packed_uri=str(folder / name), split=SPLIT)
    return _on_ray(list_sources(config), config)


def _on_ray(listed: Listed, config: FolderCorpus | ParquetCorpus) -> PackResult:
    from kd_ray.engine.pack import on_ray

    return pack_listed(listed, config, mapper=on_ray, report=None)


def _plain_loop(source: Path, target: Path) -> None:
    with target.open("wb") as out:
        for folder, _, names in os.walk(source):
            for name in names:
                with open(f"{folder}/{name}", "rb") as file:
                    data = file.read()
                hashlib.sha256(data).digest()
                out.write(data)


def _timed(work: "object") -> tuple[float, float]:
    """Wall and CPU seconds of a call, those of all processes below this one included."""
    before = _cpu_s()
    start_s = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start_s, _cpu_s() - before


def _cpu_s() -> float:
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in [os.getpid(), *_descendants(os.getpid())]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / ticks


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), []):
            yield child
            waiting.append(child)


def _is_worker(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def _write_jpegs(folder: Path, images: Path | None, count: int) -> int:
    found = [] if images is None else [path.read_bytes() for path in sorted(images.rglob("*.jp*g"))]
    originals = found or [drawn_jpeg(seed) for seed in range(64)]
    total = 0
    for number in range(count):
        data = originals[number % len(originals)]
        comment = f"{number:012d}".encode()
        data = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
        path = folder / f"class{number % 10}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        total += len(data)
    return total


def drawn_jpeg(seed: int) -> bytes:
    """Smooth shapes under noise, about as large in bytes as a photograph of 480x360."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    smooth_HWC = cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noisy_HWC = np.clip(smooth_HWC + rng.normal(0, 9, smooth_HWC.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy_HWC).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _tiny_png(number: int) -> bytes:
    pixels = np.frombuffer(hashlib.sha256(str(number).encode()).digest() * 2, np.uint8).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def _write_tiny_pngs(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        path = folder / f"class{number % 10}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_tiny_png(number))


def _write_tiny_parquet(path: Path, count: int) -> None:
    schema = pa.schema([("image", pa.binary()), ("label", pa.int32())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            columns = {"image": [_tiny_png(number) for number in numbers], "label": [n % 10 for n in numbers]}
            writer.write_table(pa.table(columns, schema=schema))


def _write_json(name: str, values: dict[str, object]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    (OUT / f"{name}.json").write_text(json.dumps({**machine, **values}, indent=1))


if __name__ == "__main__":
    main()
