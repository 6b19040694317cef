"""What an image costs on the CPU: a larger network costs more, and the threads of the process stay as they were."""

import torch

from kd_ray.config.models import CifarResNet
from kd_ray.evaluate.speed import cpu_ms_per_image
from kd_ray.models import build_model


def test_a_network_of_seven_times_the_blocks_takes_far_longer() -> None:
    threads = torch.get_num_threads()
    small, large = (
        cpu_ms_per_image(build_model(CifarResNet(kind="cifar_resnet", depth=depth), num_classes=3), size_px=(24, 24))
        for depth in (8, 56)
    )
    assert 0 < 2 * small < large
    assert torch.get_num_threads() == threads
