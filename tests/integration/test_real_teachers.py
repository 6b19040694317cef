"""Published weights through our loader give the published accuracy."""

import io

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.teacher import Teacher
from kd_ray.teachers import FrozenTeacher, load_teacher
from tests.support.shared_data import shared_data


def first_images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    table = pq.read_table(shared_data("cifar10/test.parquet"), columns=["image", "label"]).slice(0, count)
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in table["image"].to_pylist()]
    return np.stack(images), table["label"].to_numpy()


def test_cifar10_resnet56_is_right_on_more_than_92_percent() -> None:
    config = Teacher.model_validate(
        {
            "model": {"kind": "cifar_resnet", "depth": 56},
            "weights": str(shared_data("teachers/cifar10_resnet56.safetensors")),
            "input": {"size_px": (32, 32)},
            "outputs": {"logits": {}},
        }
    )
    teacher = FrozenTeacher(config, num_classes=10, weights_uri=None, device="cpu", batch_size=250)
    pixels_BHWC, labels_B = first_images(1000)
    assert np.mean(teacher(pixels_BHWC)["logits"].argmax(axis=1) == labels_B) > 0.92


def test_half_precision_mobilenetv2_loads() -> None:
    config = Teacher.model_validate(
        {
            "model": {"kind": "timm", "name": "mobilenetv2_100", "args": {"pad_type": "same"}},
            "weights": str(shared_data("teachers/imagenet_mobilenetv2_100.fp16.safetensors")),
            "input": {"size_px": (224, 224), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
            "outputs": {"logits": {}},
        }
    )
    module = load_teacher(config, num_classes=None, weights_uri=None).eval()
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 224, 224)).isfinite().all()
