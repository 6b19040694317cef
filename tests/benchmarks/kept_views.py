"""Kept pixels against rendering: CPU ms an image from the stored view to uint8 pixels of 224x224, and what codecs lose.

    python -m tests.benchmarks.kept_views [--images FOLDER] [--files 120]

JPEGs (the first of FOLDER; default: drawn ones of 480x360), one thread, all ways in turns, medians over rounds. The
views are those of the policy `lightly` without its mix, which torchvision v2 on Pillow images renders with the same
operations. Kept views are stored by kd_ray's own store on the local disk and read as training does: one view of a unit
of 60 samples at a time, checked, then decoded and resized. Also written to out/bench as JSON.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.transforms import v2

from kd_ray.cache.plan import Grid
from kd_ray.cache.spec import Spec
from kd_ray.cache.units import Span, Unit
from kd_ray.cache.view_store import ViewStore, open_view_store
from kd_ray.config.kept import KeptFormat
from kd_ray.config.views import Policy
from kd_ray.corpus.images.decode import decode
from kd_ray.corpus.packed import Rows
from kd_ray.training.views import RowImage, StoredViews
from kd_ray.views import View, ViewRow, draw, keep_view, prove
from kd_ray.views.color import Pixels
from tests.benchmarks.packing import drawn_jpeg

ROUNDS = 7
SIZE_PX = (224, 224)
UNIT_ROWS = 60
OUT = Path("out/bench")
POLICY = Policy.model_validate({"preset": "lightly", "mix": None})
FORMATS = {
    "raw, 224 px": KeptFormat(size_px=SIZE_PX, codec="raw", quality=None),
    "jpeg 90, 224 px": KeptFormat(size_px=SIZE_PX, codec="jpeg", quality=90),
    "jpeg 95, 224 px": KeptFormat(size_px=SIZE_PX, codec="jpeg", quality=95),
    "webp 95, 224 px": KeptFormat(size_px=SIZE_PX, codec="webp", quality=95),
    "webp 100, 224 px": KeptFormat(size_px=SIZE_PX, codec="webp", quality=100),
    "raw, 256 px": KeptFormat(size_px=(256, 256), codec="raw", quality=None),
    "jpeg 95, 256 px": KeptFormat(size_px=(256, 256), codec="jpeg", quality=95),
}
THEIRS, WITHOUT_BLUR = "v2 on Pillow", "v2 on Pillow, no blur"
LIGHTLY = [
    v2.RandomResizedCrop(SIZE_PX, scale=(0.14, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
    v2.RandomHorizontalFlip(),
    v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
    v2.RandomGrayscale(p=0.2),
]
BLUR = v2.GaussianBlur(23, (1e-6, 0.1))  # 23 taps at 224 px, as SimCLR and DINO have it

Work = Callable[[], object]
"""What is done with all images once."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every way, print two tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--files", type=int, default=120)
    chosen = parser.parse_args(arguments)
    found = [] if chosen.images is None else sorted(chosen.images.rglob("*.jp*g"))[: chosen.files]
    jpegs = [path.read_bytes() for path in found] or [drawn_jpeg(seed) for seed in range(chosen.files)]
    jpegs = jpegs[: len(jpegs) // UNIT_ROWS * UNIT_ROWS]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: KeptFiles(f"{folder}/{name}", jpegs, kept) for name, kept in FORMATS.items()}
        cpu_ms = _in_turns(
            {
                "kd_ray, rendered": lambda: [_rendered(number, data) for number, data in enumerate(jpegs)],
                THEIRS: lambda: _augmented(jpegs, v2.Compose([*LIGHTLY, BLUR])),
                WITHOUT_BLUR: lambda: _augmented(jpegs, v2.Compose(LIGHTLY)),
                **{name: each.read for name, each in kept.items()},
            },
            num_images=len(jpegs),
        )
        losses = {name: each.loss for name, each in kept.items()}
        sizes = {name: each.bytes_per_view for name, each in kept.items()}
    table = Table(title=f"{len(jpegs)} views of lightly to 224x224, one thread, median of {ROUNDS} rounds")
    for column in ("", "CPU ms", f"/ {THEIRS}", "/ no blur", "bytes a view", "levels off"):
        table.add_column(column, justify="right")
    ratios = {
        name: [statistics.median(np.divide(each, cpu_ms[theirs])) for theirs in (THEIRS, WITHOUT_BLUR)]
        for name, each in cpu_ms.items()
    }
    for name, each in cpu_ms.items():
        told = (f"{sizes[name]:,.0f}", f"{losses[name]:.2f}") if name in kept else ("", "")
        table.add_row(name, f"{statistics.median(each):.2f}", *(f"{ratio:.2f}" for ratio in ratios[name]), *told)
    Console(width=120).print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "kept_views.json").write_text(
        json.dumps({"cpu_ms": cpu_ms, "ratios": ratios, "bytes_per_view": sizes, "mean_levels_off": losses}, indent=1)
    )


def _augmented(jpegs: Sequence[bytes], transform: v2.Transform) -> None:
    for data in jpegs:
        transform(Image.open(io.BytesIO(data)).convert("RGB"))


def _rendered(number: int, data: bytes) -> Pixels:
    return _view(number, data).render(SIZE_PX, "bicubic")


def _view(number: int, data: bytes) -> View:
    image_HW3 = decode(data)
    height, width = image_HW3.shape[:2]
    params = draw(POLICY, seed=0, sample_id=number, view_index=0, image_size_px=(height, width))
    return View(params=params, image_HW3=image_HW3, renderer_version=POLICY.renderer_version)


class KeptFiles:
    """The views of all images stored in one format, a unit for every UNIT_ROWS of them."""

    def __init__(self, cache_uri: str, jpegs: Sequence[bytes], kept: KeptFormat) -> None:
        self._kept = kept
        self._store: ViewStore = open_view_store(
            cache_uri, Spec(name="benchmark", identity=kept.identity()), grid=Grid(unit_row_groups=1, unit_views=1)
        )
        self._units: list[tuple[Unit, Rows]] = []
        bytes_stored, differences = 0, []
        for group in range(len(jpegs) // UNIT_ROWS):
            numbers = range(group * UNIT_ROWS, (group + 1) * UNIT_ROWS)
            rendered = [_view(number, jpegs[number]) for number in numbers]
            encoded = [keep_view(view, kept) for view in rendered]
            differences += [
                np.abs(view.render(kept.size_px, "bicubic").astype(np.int16) - each.pixels_HW3).mean()
                for view, (_, each) in zip(rendered, encoded, strict=True)
            ]
            ids = np.arange(numbers.start, numbers.stop, dtype=np.uint64)
            unit = Unit(span=Span(shard="s", group_start=group, group_stop=group + 1), view_start=0, view_stop=1)
            rows = [
                ViewRow(sample_id=number, view_index=0, params=each.params, proof=prove(each, policy=POLICY))
                for number, (_, each) in zip(numbers, encoded, strict=True)
            ]
            self._store.write(unit, rows, ids, attempt="bench", pixels=[data for data, _ in encoded])
            bytes_stored += sum(len(data) for data, _ in encoded)
            self._units.append((unit, _without_images(ids)))
        self.bytes_per_view = bytes_stored / len(jpegs)
        self.loss = float(np.mean(differences))
        pinned = self._store.collection.pin([unit for unit, _ in self._units])
        self._source = StoredViews(store=self._store, units=pinned, policy=POLICY, kept=kept)

    def read(self) -> None:
        """Every view, as training gets it."""
        for unit, rows in self._units:
            views = self._source.load(unit.span, 0, rows)
            for row in range(UNIT_ROWS):
                views.view(row, 0, image=RowImage(rows, row)).render(SIZE_PX, "bicubic")


def _without_images(ids: NDArray[np.uint64]) -> Rows:
    none = np.empty(0, np.int32)
    return Rows(sample_ids=ids, labels=none, sizes_px=none, images=[], rows_per_group=(len(ids),))


def _in_turns(ways: Mapping[str, Work], *, num_images: int) -> dict[str, list[float]]:
    """CPU ms an image of each way in each round; the first round, a warm-up, does not count."""
    cpu_ms: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, work in ways.items():
            start_s = time.process_time()
            work()
            if round_number:
                cpu_ms[name].append((time.process_time() - start_s) / num_images * 1e3)
    return cpu_ms


if __name__ == "__main__":
    main()
