"""Published teachers give the same logits through the corpus, the views and the cache as outside the project."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from kd_ray.config.teacher import Teacher
from kd_ray.config.views import EVALUATION_POLICY
from kd_ray.corpus.format import sample_id_of
from kd_ray.corpus.packed import CorpusAddress
from kd_ray.evaluate.evaluation import CachedLogits
from kd_ray.extraction.plan import KnownTeacher
from kd_ray.models import network_fingerprint, output_shapes
from kd_ray.models.cifar_resnet import CifarResNet
from kd_ray.teachers import load_teacher
from tests.support.espnet import espnet
from tests.support.shared_data import shared_data
from tests.support.tiny_world import extract, pack_images, plan_teacher, plan_views

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CAMVID = {"mean": (105.87 / 255, 109.03 / 255, 110.80 / 255), "std": (70.11, 72.80, 72.20)}
NUM_IMAGES = 12


def cifar_images() -> list[bytes]:
    table = pq.read_table(shared_data("cifar10/test.parquet"), columns=["image"]).slice(0, NUM_IMAGES)
    found: list[bytes] = table["image"].to_pylist()
    return found


def photographs(width: int, height: int) -> list[bytes]:
    """Of CamVid, cut to this size, so that a view is the image itself."""
    found = []
    for path in sorted(shared_data("camvid/test/images").iterdir())[:NUM_IMAGES]:
        buffer = io.BytesIO()
        Image.open(path).convert("RGB").crop((40, 40, 40 + width, 40 + height)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def cached_logits(images: list[bytes], teacher: Teacher, folder: Path) -> dict[int, NDArray[np.float32]]:
    """By sample id, of the training images."""
    for number, data in enumerate(images):
        path = folder / "images" / "abc"[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    corpus = pack_images(folder / "images", folder / "corpus")
    module = load_teacher(teacher, num_classes=teacher.num_classes, weights_uri=None)
    assert teacher.network is not None
    known = KnownTeacher(
        name="teacher",
        config=teacher,
        num_classes=teacher.num_classes,
        weights_uri=None,
        weights_fingerprint=network_fingerprint(teacher.model, module),
        shapes=output_shapes(
            teacher.network,
            size_px=teacher.input.size_px,
            num_classes=teacher.num_classes,
            names=["logits"],
            spatial_stage=-1,
        ),
        num_parameters=0,
    )
    views = plan_views(corpus, folder / "cache", num_views=1, unit_views=1, policy=EVALUATION_POLICY)
    plan = plan_teacher(known, views, corpus, folder / "cache", outputs=["logits"])
    extract(plan, batch_size=5)
    cached = CachedLogits(
        cache_uri=str(folder / "cache"),
        target_set=plan.job.target_set,
        output=plan.job.outputs["logits"],
        view_set=plan.job.view_set,
        units=views.units,
        policy=plan.job.policy,
        verify_one_in=1,
    ).read(CorpusAddress(uri=corpus.uri))
    return dict(zip(cached.sample_ids.tolist(), cached.logits_NK, strict=True))


def outside(network: nn.Module, data: bytes, *, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """The logits of one image by plain NumPy and PyTorch."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64) / 255
    x_HWC = (pixels - np.array(mean)) / np.array(std)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(x_HWC).float().permute(2, 0, 1)[None])[0].numpy()
    return logits if logits.ndim == 1 else np.moveaxis(logits, 0, -1)


def teachers() -> dict[str, tuple[dict[str, Any], nn.Module, str, Mapping[str, Any]]]:
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return {
        "resnet20": (
            {"kind": "cifar_resnet", "depth": 20},
            CifarResNet(20, num_classes=10),
            "cifar10_resnet20",
            IMAGENET,
        ),
        "resnet56": (
            {"kind": "cifar_resnet", "depth": 56},
            CifarResNet(56, num_classes=10),
            "cifar10_resnet56",
            IMAGENET,
        ),
        "mobilenetv2": (
            {"kind": "timm", "name": "mobilenetv2_100", "args": {"pad_type": "same"}},
            timm.create_model("mobilenetv2_100", pad_type="same"),
            "imagenet_mobilenetv2_100.fp16",
            half,
        ),
        "espnet": (
            {"kind": "python", "function": "tests.support.espnet:espnet"},
            espnet(),
            "camvid_espnet_p2q8",
            CAMVID,
        ),
    }


@pytest.mark.parametrize(
    ("name", "size_px", "num_classes"),
    [
        ("resnet20", (32, 32), 10),
        ("resnet56", (32, 32), 10),
        ("mobilenetv2", (224, 224), 1000),
        ("espnet", (96, 128), 12),
    ],
)
def test_logits_are_those_of_the_network_outside(
    name: str, size_px: tuple[int, int], num_classes: int, tmp_path: Path
) -> None:
    model, network, weights, preprocessing = teachers()[name]
    file = shared_data(f"teachers/{weights}.safetensors")
    height, width = size_px
    images = cifar_images() if size_px == (32, 32) else photographs(width, height)
    state = {key: value.float() for key, value in safetensors.torch.load_file(file).items()}
    network.load_state_dict(state, strict=False)
    teacher = Teacher.model_validate(
        {
            "model": model,
            "weights": str(file),
            "input": {"size_px": size_px, **preprocessing},
            "num_classes": num_classes,
            "outputs": {"logits": {"codec": "float32"}},
        }
    )
    found = cached_logits(images, teacher, tmp_path)
    by_id = {sample_id_of(hashlib.sha256(data).digest()): data for data in images}
    assert len(found) >= NUM_IMAGES // 2
    for sample_id, logits in found.items():
        wanted = outside(network, by_id[sample_id], **preprocessing)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))


def test_espnet_knows_its_streets() -> None:
    """That the network of this test is the published one: its share of right pixels on test photographs."""
    network = espnet()
    weights = safetensors.torch.load_file(shared_data("teachers/camvid_espnet_p2q8.safetensors"))
    network.load_state_dict(weights, strict=False)
    folder = shared_data("camvid/test")
    images = sorted((folder / "images").iterdir())[:2]
    right = total = 0
    for path in images:
        mask = np.asarray(Image.open(folder / "masks" / f"{path.stem}.png"))
        found = outside(network, path.read_bytes(), **CAMVID).argmax(axis=-1)
        right += int((found == mask)[mask != 11].sum())
        total += int((mask != 11).sum())
    assert right / total > 0.8
