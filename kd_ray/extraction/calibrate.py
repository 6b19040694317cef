"""What one view costs on this machine, timed on a few images of the corpus itself with the parts that extraction uses.

Shape letters: B views of a batch, V views of a sample.
"""

import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kd_ray.cache.arrays import encode_group
from kd_ray.cache.codecs import Array, Coding
from kd_ray.cache.replay import Replay
from kd_ray.cache.statistics import ChannelStatistics
from kd_ray.config.kept import KeptFormat
from kd_ray.config.models import Input
from kd_ray.config.views import Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.packed import Rows
from kd_ray.extraction.cost import ViewCost
from kd_ray.storage import Storage
from kd_ray.teachers.frozen import FrozenTeacher
from kd_ray.views import keep_view, prove

NUM_IMAGES = 48
PROBE_BYTES = 16_000_000  # a usual range of a unit
MIN_ROUNDS = 3
ENOUGH_S = 1.0  # of one thing, after MIN_ROUNDS
PROBE_FOLDER = "probe"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRate:
    """Bytes a second of one object of PROBE_BYTES; a local file is read back from the memory of the system."""

    write_bytes_per_s: float
    read_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Seconds of one thread: of decoding an image, of rendering a view; and some rendered views [B, H, W, 3]."""

    decode_s: float
    render_s: float
    pixels: Pixels


def probe_storage(storage: Storage) -> StorageRate:
    """Write (to the disk itself) and read one object in a folder of its own, which is removed."""
    folder = f"{PROBE_FOLDER}-{uuid.uuid4().hex}"
    data = np.random.default_rng(0).bytes(PROBE_BYTES)
    try:
        write_s = _median_seconds(lambda: storage.write(f"{folder}/object", data))
        read_s = _median_seconds(lambda: storage.read(f"{folder}/object"))
    finally:
        storage.remove(folder)
    return StorageRate(write_bytes_per_s=PROBE_BYTES / write_s, read_bytes_per_s=PROBE_BYTES / read_s)


def time_rendering(
    rows: Rows, *, policy: Policy, seed: int, input: Input, kept: KeptFormat | None, num_pixels: int
) -> Rendering:
    """Of the first view of each row, one after the other; `num_pixels` views are given out, the same ones repeated."""
    replay = Replay(rows, policy=policy, seed=seed)
    decode_times, render_times, rendered = [], [], []
    for row, data in enumerate(rows.images):
        start_s = time.perf_counter()
        image = decode(data)
        decoded_s = time.perf_counter()
        (drawn,) = replay.views(row, (0,), image_HW3=image)
        view = drawn if kept is None else keep_view(drawn, kept)[1]
        prove(view, policy=policy)
        pixels = view.render(input.size_px, input.interpolation)
        render_times.append(time.perf_counter() - decoded_s)
        decode_times.append(decoded_s - start_s)
        rendered.append(pixels)
    return Rendering(
        decode_s=_mean_after_warm_up(decode_times),
        render_s=_mean_after_warm_up(render_times),
        pixels=np.stack([rendered[number % len(rendered)] for number in range(num_pixels)]),
    )


def time_teacher(
    teacher: FrozenTeacher,
    rendering: Rendering,
    *,
    codings: Mapping[str, Coding],
    storage: StorageRate,
    num_threads: int,
) -> ViewCost:
    """Of one view, in batches of as many as were rendered; PyTorch keeps to `num_threads` meanwhile."""
    num_views = len(rendering.pixels)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        outputs = teacher(rendering.pixels)
        cpu_start_s, num_before = time.process_time(), teacher.num_forwards
        teacher_s = _median_seconds(lambda: teacher(rendering.pixels)) / num_views
        teacher_cpu_s = (time.process_time() - cpu_start_s) / (teacher.num_forwards - num_before)
    finally:
        torch.set_num_threads(before)
    encode_s, decode_s = _time_coding(outputs, codings)
    num_bytes = sum(coding.bytes_per_view for coding in codings.values())
    return ViewCost(
        decode_s=rendering.decode_s,
        render_s=rendering.render_s,
        teacher_s=teacher_s,
        teacher_cpu_s=teacher_cpu_s,
        write_s=encode_s / num_views + num_bytes / storage.write_bytes_per_s,
        read_s=decode_s / num_views + num_bytes / storage.read_bytes_per_s,
    )


def _time_coding(outputs: Mapping[str, NDArray[np.float32]], codings: Mapping[str, Coding]) -> tuple[float, float]:
    """Seconds of encoding, with statistics and checksums, and of decoding all of a batch."""
    encode_s = decode_s = 0.0
    for name, coding in codings.items():
        values_VND = outputs[name][None]
        plain = replace(coding, explained_variance=None)  # a batch is too little to find a basis in
        calibration = plain.calibrate(values_VND, what=name) if plain.needs_calibration else None
        encoded = plain.encode(values_VND, calibration=calibration, what=name)
        encode_s += _median_seconds(_encoding(plain, values_VND, calibration, what=name))
        one_view: dict[str, Array] = {key: array[0] for key, array in encoded.items()}
        decode_s += _median_seconds(_decoding(plain, one_view, calibration))
    return encode_s, decode_s


def _encoding(coding: Coding, values_VND: NDArray[np.float32], calibration: Any, *, what: str) -> Callable[[], object]:
    def work() -> object:
        ChannelStatistics.of(values_VND)
        return encode_group(coding.encode(values_VND, calibration=calibration, what=what), {})

    return work


def _decoding(coding: Coding, arrays: Mapping[str, Array], calibration: Any) -> Callable[[], object]:
    return lambda: coding.decode(arrays, calibration=calibration)


def _median_seconds(work: Callable[[], object]) -> float:
    """Of MIN_ROUNDS, or fewer where these have taken ENOUGH_S already."""
    times: list[float] = []
    while len(times) < MIN_ROUNDS and sum(times) < ENOUGH_S:
        start_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def _mean_after_warm_up(times: Sequence[float]) -> float:
    """Without the first, which loads what is loaded once."""
    return statistics.mean(times[1:] or times)
