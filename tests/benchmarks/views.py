"""Views of every preset: drawing, decoding and replaying them against torchvision v2 with the same operations.

    python -m tests.benchmarks.views [--images FOLDER] [--files 64]

CPU ms an image from JPEG (the first of FOLDER, by default drawn ones of 480x360; each a row group of 64) to its view
of 224x224, of `dino_multicrop` to its 2 views of 224x224 and 8 of 96x96, `paper_seg` without a look at masks. By one
thread; all ways take turns, each over all images, round after round. kd_ray draws the params by key, decodes and
renders, mixed views with the partner that extraction and training would take; torchvision decodes with Pillow, or with
its own decoder to uint8 tensors, and mixes float batches of a row group. The profile says what the parts cost. Also
written to out/bench as JSON.
"""

import argparse
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from kd_ray.cache.replay import Replay
from kd_ray.config.crops import RandomScaleCrop
from kd_ray.config.presets import PRESETS
from kd_ray.config.views import Policy, SizePx
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.packed import Rows
from kd_ray.views import draw, render
from tests.benchmarks.packing import drawn_jpeg
from tests.benchmarks.timing import Times, Work, for_each, in_turns, ratio
from tests.benchmarks.torchvision_views import NUM_CLASSES, as_float, mixing, transform
from tests.benchmarks.view_profile import parts

ROUNDS = 7
ROW_GROUP_SIZE = 64
SIZE_PX = (224, 224)
OUT = Path("out/bench")
OURS, ON_PILLOW, ON_TENSORS = "kd_ray", "v2 on Pillow", "v2 on tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """Views of one kind, `count` of them from one decoded image."""

    policy: Policy
    count: int
    size_px: SizePx


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every preset, print a table and the profile, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--files", type=int, default=64)
    chosen = parser.parse_args(arguments)
    found = [] if chosen.images is None else sorted(chosen.images.rglob("*.jp*g"))[: chosen.files]
    jpegs = [path.read_bytes() for path in found] or [drawn_jpeg(seed) for seed in range(chosen.files)]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    rows = crops_of_presets()
    ways = {f"{row}: {way}": work for row, kinds in rows.items() for way, work in ways_of(kinds, jpegs).items()}
    speed = in_turns(ways, num_images=len(jpegs), num_rounds=ROUNDS)
    profile = in_turns(parts(jpegs, size_px=SIZE_PX), num_images=len(jpegs), num_rounds=ROUNDS)
    kilobytes = sum(map(len, jpegs)) / len(jpegs) / 1e3
    title = f"CPU ms an image: {len(jpegs)} JPEGs of {kilobytes:.0f} kB, one thread, median (extremes) of {ROUNDS}"
    Console(width=120).print(_speed_table(speed, rows, title=title))
    for part, times in profile.items():
        Console().print(f"{part:<40}{times.cpu:7.3f}", highlight=False)
    _write_json(
        {
            "images": len(jpegs),
            "kilobytes_an_image": kilobytes,
            "speed": {name: asdict(times) for name, times in speed.items()},
            "profile": {name: asdict(times) for name, times in profile.items()},
        }
    )


def crops_of_presets() -> Mapping[str, tuple[Crops, ...]]:
    """By name, what one sample comes with."""
    return {name: _kinds(_without_masks(Policy.model_validate({"preset": name}))) for name in PRESETS}


def _kinds(policy: Policy) -> tuple[Crops, ...]:
    return tuple(
        Crops(policy=policy.of_kind(kind), count=policy.num_crops(kind), size_px=policy.size_px(kind) or SIZE_PX)
        for kind in policy.kind_names
    )


def _without_masks(policy: Policy) -> Policy:
    """The policy with crops at the first place drawn: torchvision has none that looks at the mask."""
    operations = tuple(
        each.model_copy(update={"cat_max_ratio": None}) if isinstance(each, RandomScaleCrop) else each
        for each in policy.operations
    )
    return policy.model_copy(update={"operations": operations})


def ways_of(kinds: Sequence[Crops], jpegs: Sequence[bytes]) -> Mapping[str, Work]:
    """Each of the three from all JPEGs to their views."""
    is_mixed = kinds[0].policy.mix is not None
    return {
        OURS: (lambda: _mixed(kinds[0], jpegs)) if is_mixed else (lambda: _unmixed(kinds, jpegs)),
        ON_PILLOW: _theirs(kinds, jpegs, on_tensors=False),
        ON_TENSORS: _theirs(kinds, jpegs, on_tensors=True),
    }


def _unmixed(kinds: Sequence[Crops], jpegs: Sequence[bytes]) -> None:
    for number, data in enumerate(jpegs):
        image_HW3 = decode(data)
        height, width = image_HW3.shape[:2]
        for kind in kinds:
            for view_index in range(kind.count):
                params = draw(
                    kind.policy, seed=0, sample_id=number, view_index=view_index, image_size_px=(height, width)
                )
                render(image_HW3, params, size_px=kind.size_px, interpolation="bilinear")


def _mixed(kind: Crops, jpegs: Sequence[bytes]) -> None:
    """By row groups, as extraction and training replay them: each image is decoded once."""
    for start in range(0, len(jpegs), ROW_GROUP_SIZE):
        group = list(jpegs[start : start + ROW_GROUP_SIZE])
        rows = Rows(
            sample_ids=np.arange(start, start + len(group), dtype=np.uint64),
            labels=np.empty(0, np.int32),
            sizes_px=np.full((len(group), 2), 512, np.int32),  # only says how many decoded images may be kept
            images=group,
            rows_per_group=(len(group),),
        )
        replay = Replay(rows, policy=kind.policy, seed=0)
        for row in range(len(group)):
            replay.view(row, 0).render(kind.size_px, "bilinear")


def _theirs(kinds: Sequence[Crops], jpegs: Sequence[bytes], *, on_tensors: bool) -> Work:
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in jpegs]
    transforms = [
        (transform(kind.policy.operations, size_px=kind.size_px, on_tensors=on_tensors), kind.count) for kind in kinds
    ]
    mix, num_images = kinds[0].policy.mix, len(jpegs)

    def image(number: int) -> object:
        if on_tensors:
            return decode_jpeg(tensors[number], ImageReadMode.RGB)
        return Image.open(io.BytesIO(jpegs[number])).convert("RGB")

    if mix is None:
        return for_each(range(num_images), lambda number: _views(transforms, image(number)))
    mixer, to_tensor = mixing(mix), v2.ToImage()

    def work() -> None:
        for start in range(0, num_images, ROW_GROUP_SIZE):
            numbers = range(start, min(start + ROW_GROUP_SIZE, num_images))
            views = [to_tensor(view) for number in numbers for view in _views(transforms, image(number))]
            mixer(as_float(views), torch.randint(NUM_CLASSES, (len(views),)))

    return work


def _views(transforms: Sequence[tuple[v2.Transform, int]], image: object) -> list[torch.Tensor]:
    return [change(image) for change, count in transforms for _ in range(count)]


def _speed_table(speed: Mapping[str, Times], rows: Mapping[str, Sequence[Crops]], *, title: str) -> Table:
    table = Table(title=title)
    for column in ("", OURS, ON_PILLOW, ON_TENSORS, "to Pillow", "to tensors", "views/s a core"):
        table.add_column(column, justify="right")
    for name, kinds in rows.items():
        ours, pillow, tensors = (speed[f"{name}: {way}"] for way in (OURS, ON_PILLOW, ON_TENSORS))
        num_views = sum(kind.count for kind in kinds)
        table.add_row(
            name,
            *(f"{times.cpu:.2f}" for times in (ours, pillow, tensors)),
            *(str(ratio(ours, theirs)) for theirs in (pillow, tensors)),
            f"{num_views * 1e3 / ours.cpu:,.0f}",
        )
    return table


def _write_json(values: Mapping[str, object]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    (OUT / "views.json").write_text(json.dumps({**machine, **values}, indent=1))


if __name__ == "__main__":
    main()
