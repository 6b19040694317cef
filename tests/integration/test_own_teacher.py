"""The teacher of docs/teachers.md, as a reader would copy it: its file, its recipe, and what it gives."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from kd_ray.config.teacher import Teacher
from kd_ray.teachers import FrozenTeacher

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
PRESETS = Path(__file__).parents[2] / "conf" / "parts" / "teacher"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_s_teacher_gives_what_its_network_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_teacher.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    import our_teacher  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network = our_teacher.OurTeacher().eval()
    safetensors.torch.save_file(network.state_dict(), "our_teacher.safetensors")
    config = Teacher.model_validate(yaml.safe_load(block("yaml"))["teacher"])
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    teacher = FrozenTeacher(config, num_classes=None, weights_uri=None, device="cpu", batch_size=2)
    found = teacher(pixels)
    mean, std = np.array(config.input.mean), np.array(config.input.std)
    x_BHWC = torch.from_numpy((pixels / 255 - mean) / std).float()
    with torch.inference_mode():
        wanted = network(x_BHWC.permute(0, 3, 1, 2))
    assert {name: output.shape for name, output in found.items()} == {
        "summary": (5, 32),
        "spatial": (5, 8, 8, 32),
        "logits": (5, 10),
    }
    for name, output in found.items():
        np.testing.assert_allclose(output, wanted[name].numpy(), atol=1e-5)
    before = teacher.weights_fingerprint
    (tmp_path / "our_teacher.py").write_text(block("python") + "\n# another teacher\n")
    again = FrozenTeacher(config, num_classes=None, weights_uri=None, device="cpu", batch_size=2)
    assert again.weights_fingerprint != before
    del sys.modules["our_teacher"]


def test_the_page_names_every_preset_and_no_other() -> None:
    section = PAGE[PAGE.index("## Presets") :]
    assert set(re.findall(r"`(\w+)`", section)) - {"conf"} == {path.stem for path in PRESETS.glob("*.yaml")}


@pytest.mark.parametrize(
    "options", [{"channels_last": True}, {"precision": "bfloat16", "channels_last": True}], ids=str
)
def test_options_for_speed_leave_outputs_and_fingerprint_as_they_are(options: dict[str, object]) -> None:
    values = {
        "model": {"kind": "python", "function": "tests.support.networks:small_net"},
        "input": {"size_px": (16, 16)},
        "outputs": {"summary": {}, "spatial": {}, "logits": {}},
    }
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    plain, fast = (
        FrozenTeacher(Teacher.model_validate(each), num_classes=None, weights_uri=None, device="cpu", batch_size=4)
        for each in (values, values | options)
    )
    tolerance = 0.05 if "precision" in options else 1e-5
    for name, output in plain(pixels).items():
        np.testing.assert_allclose(fast(pixels)[name], output, atol=tolerance * np.abs(output).max())
    assert fast.weights_fingerprint == plain.weights_fingerprint
