"""What a step of a student costs on this machine, timed on noise: the network is the recipe's, the losses are not."""

import statistics
import time

import torch

from kd_ray.config.optim import Optimizer
from kd_ray.config.student import Student
from kd_ray.models import build_model
from kd_ray.models.optim import build_optimizer

NUM_STEPS = 3
MAX_BATCH = 64


def time_student_step(
    config: Student, *, num_classes: int | None, optimizer: Optimizer, batch_size: int, num_threads: int
) -> float:
    """Seconds per image of forward, backward and update, in batches of at most MAX_BATCH; the first step is not
    counted.
    """
    module = build_model(config.model, num_classes=num_classes).train()
    updates = build_optimizer(optimizer, module)
    height, width = config.input.size_px
    x_BCHW = torch.randn(min(batch_size, MAX_BATCH), 3, height, width)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        times = []
        for _ in range(NUM_STEPS + 1):
            start_s = time.perf_counter()
            updates.zero_grad()
            loss = module(x_BCHW).float().square().mean()
            loss.backward()
            updates.step()
            times.append(time.perf_counter() - start_s)
    finally:
        torch.set_num_threads(before)
    return statistics.median(times[1:]) / len(x_BCHW)
