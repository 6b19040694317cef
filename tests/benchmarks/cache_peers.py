"""Reading targets by the loaders that people use for them: MosaicML Streaming, LitData, WebDataset and memmap.

    python -m tests.benchmarks.cache_peers [--mb 300] [--rounds 5]

Float16 spatial features of 301 kB, shuffled, gathered into batches of 64, page-cached, in one process without workers;
each stores what its writer makes of the same arrays in files of about 64 MB, with its checks as they come. Peers are no
dependency of this project: those that are not installed (mosaicml-streaming, litdata, webdataset) are left out by name.
All ways take turns. CPU time is that of the whole process. Also written to out/bench as JSON.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.benchmarks.cache_reading import BATCH_SIZE, MEMMAP, OURS, OUT, Cost, Stored, read_cache, read_memmap, store

FILE_BYTES = 1 << 26
MODULES = {"MosaicML Streaming": "streaming", "LitData": "litdata", "WebDataset": "webdataset"}
Read = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    absent = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        stored = store(Path(folder) / "cache", "spatial", "float16", num_bytes=chosen.mb * 1_000_000)
        commits = stored.output.collection.commits()
        ways: dict[str, Read] = {OURS: lambda: read_cache(stored, commits), MEMMAP: lambda: read_memmap(stored)}
        ways |= {name: PEERS[name](stored, Path(folder) / name) for name in MODULES if name not in absent}
        costs = {name: stored.cost() for name in ways}
        for number in range(chosen.rounds + 1):
            for name, way in ways.items():
                if number:
                    costs[name].time(way)
                else:
                    way()
    _print(costs, absent)
    values = {name: asdict(cost) for name, cost in costs.items()}
    (OUT / "cache_peers.json").write_text(json.dumps(values, indent=1))


def _print(costs: Mapping[str, Cost], absent: Sequence[str]) -> None:
    table = Table(title="float16 spatial, warm")
    for column in ("", "CPU s/GB", "MB/s", "views/s", "rate of memmap"):
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        rates = [theirs / own for theirs, own in zip(costs[MEMMAP].wall_s, cost.wall_s, strict=True)]
        table.add_row(*cost.row(name), f"{statistics.median(rates):.2f}")
    console = Console(width=120)
    console.print(table)
    if absent:
        console.print(f"not installed, left out: {', '.join(absent)}", highlight=False)


def _views(stored: Stored) -> Iterator[NDArray[np.float16]]:
    (values_VND,) = stored.encoded.values()
    for _ in stored.units:
        for values_ND in values_VND:
            yield from values_ND


def _in_batches(views: Iterable[Any]) -> int:
    """Copies views into the memory of a batch, as all other ways do; how many there were."""
    batch, count = np.empty(0), 0
    for count, view in enumerate(views, start=1):
        if not len(batch):
            batch = np.empty((BATCH_SIZE, *view.shape), np.float16)
        batch[(count - 1) % BATCH_SIZE] = view
    return count


def _checked(stored: Stored, views: Callable[[], Iterable[Any]]) -> Read:
    expected = stored.cost().num_views

    def read() -> None:
        count = _in_batches(views())
        assert count == expected, (count, expected)

    return read


def _mosaic(stored: Stored, folder: Path) -> Read:
    from streaming import MDSWriter, StreamingDataset

    shape = next(_views(stored)).shape
    columns = {"values": f"ndarray:float16:{','.join(map(str, shape))}"}
    with MDSWriter(columns=columns, out=str(folder), size_limit=FILE_BYTES) as writer:
        for view in _views(stored):
            writer.write({"values": view})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_SIZE)
    return _checked(stored, lambda: (sample["values"] for sample in dataset))


def _litdata(stored: Stored, folder: Path) -> Read:
    from litdata import StreamingDataset
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes=FILE_BYTES)
    for number, view in enumerate(_views(stored)):
        cache[number] = {"values": view}
    cache.done()
    cache.merge()
    dataset = StreamingDataset(str(folder), shuffle=True)
    return _checked(stored, lambda: (sample["values"] for sample in dataset))


def _webdataset(stored: Stored, folder: Path) -> Read:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxsize=FILE_BYTES, verbose=0) as writer:
        for number, view in enumerate(_views(stored)):
            writer.write({"__key__": f"{number:08d}", "values.npy": view})
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(4 * BATCH_SIZE).decode()
    return _checked(stored, lambda: (sample["values.npy"] for sample in dataset))


PEERS: Mapping[str, Callable[[Stored, Path], Read]] = {
    "MosaicML Streaming": _mosaic,
    "LitData": _litdata,
    "WebDataset": _webdataset,
}

if __name__ == "__main__":
    main()
