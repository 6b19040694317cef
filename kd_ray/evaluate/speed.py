"""What an image costs a finished model on the CPU."""

import statistics
import time

import torch
from torch import nn

BATCH_SIZE = 8
NUM_REPEATS = 5
MIN_SECONDS = 0.05  # of one repeat; the clock of a process ticks in steps far below that


def cpu_ms_per_image(module: nn.Module, *, size_px: tuple[int, int]) -> float:
    """Milliseconds of CPU time an image of `size_px` takes in batches of BATCH_SIZE on one thread: the median of
    NUM_REPEATS repeats.
    """
    inputs_BCHW = torch.rand(BATCH_SIZE, 3, *size_px, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module.eval()
    try:
        with torch.inference_mode():
            module(inputs_BCHW)  # the first pass chooses kernels
            return statistics.median(_repeat(module, inputs_BCHW) for _ in range(NUM_REPEATS))
    finally:
        torch.set_num_threads(threads)


def _repeat(module: nn.Module, inputs_BCHW: torch.Tensor) -> float:
    start_s, num_batches = time.thread_time(), 0
    while (elapsed_s := time.thread_time() - start_s) < MIN_SECONDS or num_batches == 0:
        module(inputs_BCHW)
        num_batches += 1
    return 1000 * elapsed_s / (num_batches * BATCH_SIZE)
