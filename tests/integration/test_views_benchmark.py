"""The benchmarks of views run: every preset, here and as torchvision has it, and kept pixels."""

from pathlib import Path

import pytest

from kd_ray.config.presets import PRESETS
from tests.benchmarks.kept_views import FORMATS, UNIT_ROWS, KeptFiles
from tests.benchmarks.packing import drawn_jpeg
from tests.benchmarks.views import ON_PILLOW, ON_TENSORS, OURS, crops_of_presets, ways_of


# torchvision's own decoder is one of the ways that people have now
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_can_be_timed_in_all_three_ways(preset: str) -> None:
    ways = ways_of(crops_of_presets()[preset], [drawn_jpeg(0), drawn_jpeg(1)])
    assert list(ways) == [OURS, ON_PILLOW, ON_TENSORS]
    for work in ways.values():
        work()


def test_kept_views_are_read_as_training_reads_them(tmp_path: Path) -> None:
    jpegs = [drawn_jpeg(seed % 3) for seed in range(UNIT_ROWS)]
    kept = KeptFiles(str(tmp_path), jpegs, FORMATS["raw, 224 px"])
    assert (kept.bytes_per_view, kept.loss) == (224 * 224 * 3, 0.0)
    kept.read()
