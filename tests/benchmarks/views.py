"""Views: drawing, decoding and replaying them against torchvision v2 with the same operations, CPU ms an image.

    python -m tests.benchmarks.views [--images FOLDER] [--files 120]

JPEGs (the first of FOLDER; default: drawn ones of 480x360) to 224x224, bilinear, by one thread. All ways take turns,
each over all images, round after round; the table shows medians over rounds. kd_ray draws the params of the view by
key, decodes and renders, with either version of the renderer; torchvision decodes with Pillow, or with its own
decoder to uint8 tensors. The profile says what the parts of the first cost. Also written to out/bench as JSON.
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from kd_ray.config.operations import GaussianBlur, RandomGrayscale, TrivialAugmentWide
from kd_ray.config.views import ColorJitter, HorizontalFlip, Policy, RandomResizedCrop, RendererVersion
from kd_ray.corpus.images.decode import decode
from kd_ray.views import JitterParams, View, ViewParams, draw, prove, render
from kd_ray.views.color import Pixels, jitter
from tests.benchmarks.packing import drawn_jpeg

ROUNDS = 7
SIZE_PX = (224, 224)
OUT = Path("out/bench")
CROP = RandomResizedCrop(kind="random_resized_crop")
FLIP = HorizontalFlip(kind="horizontal_flip")
JITTER = ColorJitter(kind="color_jitter", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8)
GRAY = RandomGrayscale(kind="random_grayscale", probability=0.2)
BLUR = GaussianBlur(kind="gaussian_blur", sigma=(0.1, 2.0), probability=0.5)
TRIVIAL = TrivialAugmentWide(kind="trivial_augment_wide")
THEIR_CROP = v2.RandomResizedCrop(SIZE_PX, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
THEIR_FLIP = v2.RandomHorizontalFlip()
THEIR_JITTER = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
THEIR_GRAY = v2.RandomGrayscale(p=0.2)
THEIR_BLUR = v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5)  # 23 taps at 224 px, as SimCLR and DINO have it
POLICIES = {
    "crop, flip": (CROP, FLIP),
    "crop, flip, jitter": (CROP, FLIP, JITTER),
    "crop, flip, jitter, gray, blur": (CROP, FLIP, JITTER, GRAY, BLUR),
    "crop, flip, TrivialAugment": (CROP, FLIP, TRIVIAL),
}
THEIRS = {JITTER: THEIR_JITTER, GRAY: THEIR_GRAY, BLUR: THEIR_BLUR, TRIVIAL: v2.TrivialAugmentWide()}
ON_PILLOW, ON_TENSORS = "v2 on Pillow", "v2 on tensors"

Work = Callable[[int], object]
"""What is done with the image of a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of one way: ms an image, one entry per round."""

    cpu_ms: list[float]
    wall_ms: list[float]

    @property
    def cpu(self) -> float:
        """The median."""
        return statistics.median(self.cpu_ms)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every policy, print a table and the profile, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--files", type=int, default=120)
    chosen = parser.parse_args(arguments)
    found = [] if chosen.images is None else sorted(chosen.images.rglob("*.jp*g"))[: chosen.files]
    jpegs = [path.read_bytes() for path in found] or [drawn_jpeg(seed) for seed in range(chosen.files)]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ways = {
        f"{row}: {column}": work
        for row, operations in POLICIES.items()
        for column, work in _ways(Policy(name="benchmark", operations=operations), jpegs).items()
    }
    speed = _in_turns(ways, num_images=len(jpegs))
    profile = _in_turns(_parts(jpegs), num_images=len(jpegs))
    kilobytes = sum(map(len, jpegs)) / len(jpegs) / 1e3
    title = f"CPU ms an image: {len(jpegs)} JPEGs of {kilobytes:.0f} kB to 224x224, one thread, median of {ROUNDS}"
    Console().print(_speed_table(speed, title=title))
    for part, times in profile.items():
        Console().print(f"{part:<30}{times.cpu:7.3f}", highlight=False)
    _write_json(
        {
            "images": len(jpegs),
            "kilobytes_an_image": kilobytes,
            "speed": {name: asdict(times) for name, times in speed.items()},
            "profile": {name: asdict(times) for name, times in profile.items()},
        }
    )


def _ways(policy: Policy, jpegs: Sequence[bytes]) -> Mapping[str, Work]:
    """Each of the four from the JPEG of a number to its view."""
    theirs = v2.Compose([THEIR_CROP, THEIR_FLIP, *(THEIRS[each] for each in policy.operations if each in THEIRS)])
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in jpegs]

    def ours(number: int, version: RendererVersion) -> object:
        image_HW3 = decode(jpegs[number])
        height, width = image_HW3.shape[:2]
        params = draw(policy, seed=0, sample_id=number, view_index=0, image_size_px=(height, width))
        return render(image_HW3, params, size_px=SIZE_PX, interpolation="bilinear", renderer_version=version)

    return {
        "kd_ray, renderer 1": lambda number: ours(number, 1),
        "kd_ray, renderer 2": lambda number: ours(number, 2),
        ON_PILLOW: lambda number: theirs(Image.open(io.BytesIO(jpegs[number])).convert("RGB")),
        ON_TENSORS: lambda number: theirs(decode_jpeg(tensors[number], mode=ImageReadMode.RGB)),
    }


def _parts(jpegs: Sequence[bytes]) -> Mapping[str, Work]:
    """What `crop, flip, jitter` is made of, each on the same images and params."""
    policy = Policy(name="benchmark", operations=(CROP, FLIP, JITTER))
    newer = policy.model_copy(update={"renderer_version": 2})
    images = [decode(data) for data in jpegs]

    def drawn(number: int) -> ViewParams:
        height, width = images[number].shape[:2]
        return draw(policy, seed=0, sample_id=number, view_index=0, image_size_px=(height, width))

    def resized(number: int, version: RendererVersion) -> Pixels:
        crop = params[number][:1]
        return render(images[number], crop, size_px=SIZE_PX, interpolation="bilinear", renderer_version=version)

    def jittered(number: int) -> Pixels:
        chosen = params[number][2]
        return jitter(views[number], chosen) if isinstance(chosen, JitterParams) and chosen.applied else views[number]

    params = [drawn(number) for number in range(len(jpegs))]
    views = [resized(number, 1) for number in range(len(jpegs))]
    return {
        "decode": lambda number: decode(jpegs[number]),
        "draw": drawn,
        "crop and resize, renderer 1": lambda number: resized(number, 1),
        "crop and resize, renderer 2": lambda number: resized(number, 2),
        "flip (all)": lambda number: cv2.flip(views[number], 1),
        "jitter (four in five)": jittered,
        "digest, renderer 1": lambda number: prove(
            View(params=params[number], image_HW3=images[number]), policy=policy
        ),
        "digest, renderer 2": lambda number: prove(
            View(params=params[number], image_HW3=images[number], renderer_version=2), policy=newer
        ),
    }


def _in_turns(ways: Mapping[str, Work], *, num_images: int) -> dict[str, Times]:
    """Every way over all images, then the next way, in rounds; the first round, a warm-up, does not count."""
    times = {name: Times(cpu_ms=[], wall_ms=[]) for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, work in ways.items():
            wall_start_s, cpu_start_s = time.perf_counter(), time.thread_time()
            for number in range(num_images):
                work(number)
            cpu_s, wall_s = time.thread_time() - cpu_start_s, time.perf_counter() - wall_start_s
            if round_number:
                times[name].cpu_ms.append(cpu_s / num_images * 1e3)
                times[name].wall_ms.append(wall_s / num_images * 1e3)
    return times


def _speed_table(speed: Mapping[str, Times], *, title: str) -> Table:
    table = Table(title=title)
    for column in ("", "CPU ms", "wall ms", "/ Pillow", "/ tensors", "views/s"):
        table.add_column(column, justify="right")
    for name, times in speed.items():
        policy = name.partition(":")[0]
        table.add_row(
            name,
            f"{times.cpu:.2f}",
            f"{statistics.median(times.wall_ms):.2f}",
            f"{_ratio(times, speed[f'{policy}: {ON_PILLOW}']):.2f}",
            f"{_ratio(times, speed[f'{policy}: {ON_TENSORS}']):.2f}",
            f"{1e3 / times.cpu:,.0f}",
        )
    return table


def _ratio(ours: Times, theirs: Times) -> float:
    """The median over rounds: both of one round met the same disturbance."""
    return statistics.median(a / b for a, b in zip(ours.cpu_ms, theirs.cpu_ms, strict=True))


def _write_json(values: Mapping[str, object]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    (OUT / "views.json").write_text(json.dumps({**machine, **values}, indent=1))


if __name__ == "__main__":
    main()
