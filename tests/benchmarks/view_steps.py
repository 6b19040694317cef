"""CPU time of each step of a view beside torchvision's operation: python -m tests.benchmarks.view_steps."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from kd_ray.views import Step
from kd_ray.views.params import StepName
from kd_ray.views.steps import apply_step

SIDE_PX = 224
NUM_RUNS = 60
OUT = Path("out/bench/view_steps.json")
BLACK = (0.0, 0.0, 0.0)
CORNERS = (0.1, 0.1, 0.9, 0.0, 1.0, 0.9, 0.0, 0.95)


def main() -> None:
    """Prints a Markdown table of medians in ms, both on one thread, and writes it as JSON."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    view_HW3 = cv2.GaussianBlur(noise_HW3, (0, 0), 3)
    view_3HW = torch.from_numpy(view_HW3.copy()).permute(2, 0, 1).contiguous()
    ours, theirs = _ours(view_HW3), _theirs(view_3HW, Image.fromarray(view_HW3))
    rows = {name: {"theirs_ms": _median_ms(theirs[name]), "ours_ms": _median_ms(ours[name])} for name in ours}
    print("| operation | torchvision | here |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['theirs_ms']:.2f} | {row['ours_ms']:.2f} |")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2) + "\n")


def _ours(view_HW3: np.ndarray) -> dict[str, Callable[[], object]]:
    def one(name: StepName, *values: float, option: str | None = None) -> Callable[[], object]:
        return lambda: apply_step(view_HW3, Step(name=name, values=values, option=option))

    return {
        "Gaussian blur, sigma 2": one("gaussian_blur", 2 / SIDE_PX),
        "grayscale": one("gray"),
        "sharpness": one("sharpness", 1.5),
        "solarize": one("solarize", 100.0),
        "posterize": one("posterize", 3.0),
        "equalize": one("equalize"),
        "autocontrast": one("autocontrast"),
        "rotation, nearest": one("rotate", 20.0, *BLACK, option="nearest"),
        "rotation, bilinear": one("rotate", 20.0, *BLACK, option="bilinear"),
        "rotation, bicubic": one("rotate", 20.0, *BLACK, option="bicubic"),
        "perspective, bilinear": one("perspective", *CORNERS, *BLACK, option="bilinear"),
        "noise in a box of 90x90": one("erase", 0.2, 0.2, 0.4, 0.4, 77.0, option="noise"),
    }


def _theirs(view_3HW: torch.Tensor, image: Image.Image) -> dict[str, Callable[[], object]]:
    corners = [[share * SIDE_PX for share in CORNERS[at : at + 2]] for at in range(0, 8, 2)]
    square = [[0, 0], [SIDE_PX, 0], [SIDE_PX, SIDE_PX], [0, SIDE_PX]]
    return {
        "Gaussian blur, sigma 2": lambda: F.gaussian_blur(view_3HW, [23, 23], [2.0, 2.0]),
        "grayscale": lambda: F.rgb_to_grayscale(view_3HW, 3),
        "sharpness": lambda: F.adjust_sharpness(view_3HW, 1.5),
        "solarize": lambda: F.solarize(view_3HW, 100),
        "posterize": lambda: F.posterize(view_3HW, 3),
        "equalize": lambda: F.equalize(view_3HW),
        "autocontrast": lambda: F.autocontrast(view_3HW),
        "rotation, nearest": lambda: F.rotate(view_3HW, 20.0),
        "rotation, bilinear": lambda: F.rotate(view_3HW, 20.0, interpolation=InterpolationMode.BILINEAR),
        "rotation, bicubic": lambda: image.rotate(20, Image.Resampling.BICUBIC),  # its tensors know no bicubic
        "perspective, bilinear": lambda: F.perspective(view_3HW, square, corners),
        "noise in a box of 90x90": lambda: F.erase(view_3HW, 45, 45, 90, 90, torch.randn(3, 90, 90)),
    }


def _median_ms(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(NUM_RUNS):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
