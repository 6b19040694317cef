"""Reading targets from an S3 server on loopback, against http.client receiving the same ranges.

    python -m tests.benchmarks.cache_reading_s3 [--mb 300] [--threads 4] [--rounds 5]

The server is moto's, in a process of its own: its rate is the limit for both, and an object store's is not known from
it. A range is 64 views of float16 spatial features, 19 MB; ours is checked, the other is not. Both ways
take turns. CPU time is that of this process. Also written to out/bench as JSON.
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from urllib.parse import urlsplit

import s3fs

from kd_ray.storage import buffers
from tests.benchmarks.cache_reading import OUT, Cost, Stored, ids_of, print_table, store_units
from tests.support.s3 import BUCKET, bucket_at

OURS, RAW = "kd_ray", "http.client"
START_S = 30
URL_LIFE_S = 3600


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    OUT.mkdir(parents=True, exist_ok=True)
    with moto_server() as url, bucket_at(url, access_key="test", secret_key="test"):
        stored = store_units(f"s3://{BUCKET}/cache", "spatial", "float16", num_bytes=chosen.mb * 1_000_000)
        costs = measured(stored, num_threads=chosen.threads, num_rounds=chosen.rounds)
    print_table(f"float16 spatial, {chosen.threads} ranges at once", costs)
    values = {name: asdict(cost) for name, cost in costs.items()}
    (OUT / "cache_reading_s3.json").write_text(json.dumps(values, indent=1))


def measured(stored: Stored, *, num_threads: int, num_rounds: int) -> dict[str, Cost]:
    """Costs by way; a round of warm-up does not count."""
    raw = _raw_reader(stored)
    commits = stored.output.collection.commits()

    def ours(index: int) -> None:
        unit, view_index = stored.views[index]
        stored.output.read_encoded(commits[unit], view_index=view_index, sample_ids=ids_of(unit))

    costs = {way: stored.cost() for way in (OURS, RAW)}
    for number in range(num_rounds + 1):
        for way, read in ((OURS, ours), (RAW, raw)):
            with ThreadPoolExecutor(num_threads) as pool:
                work = lambda read=read, pool=pool: list(pool.map(read, range(len(stored.views))))  # noqa: E731
                if number:
                    costs[way].time(work)
                else:
                    work()
    return costs


def _raw_reader(stored: Stored) -> Callable[[int], None]:
    """Receives the range of a view, by its number, into memory that is used again; URLs are signed before."""
    fs, output = s3fs.S3FileSystem(), stored.output
    commits = output.collection.commits()
    places = []
    for unit, view_index in stored.views:
        ((_, layout),) = [(name, each) for name, each in commits[unit].arrays.items() if name != "sample_id"]
        name = output.collection.object_name(commits[unit], layout.object_name)
        url = urlsplit(fs.sign(f"{output.collection.storage.uri}/{name}", expiration=URL_LIFE_S))
        places.append((url, *layout.ranges[view_index]))

    def read(index: int) -> None:
        url, offset, length = places[index]
        buffer = buffers.shared.take(length)
        connection = http.client.HTTPConnection(url.netloc)
        connection.request("GET", f"{url.path}?{url.query}", headers={"Range": f"bytes={offset}-{offset + length - 1}"})
        answer = connection.getresponse()
        assert answer.status == http.HTTPStatus.PARTIAL_CONTENT, answer.status
        view, done = memoryview(buffer.data), 0
        while done < length:
            count = answer.readinto(view[done:])
            assert count, (done, length)
            done += count
        connection.close()

    return read


@contextmanager
def moto_server() -> Iterator[str]:
    """The URL of a server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    until_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
