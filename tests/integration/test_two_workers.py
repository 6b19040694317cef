"""Students shared out over two workers (FSDP2) learn as copies on each (DDP) do, and go on from each other's state."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kd_ray.config.loop import Ema
from tests.support.two_workers import settings, train_on_two

# gradients are summed and divided in another order
TOLERANCE = 1e-5


@pytest.mark.timeout(300)
def test_shared_out_weights_learn_as_copies_do(tmp_path: Path) -> None:
    plain, shared = settings(gradient_clip=0.1), settings(gradient_clip=0.1, parallel="fsdp", ema=Ema(decay=0.9))
    told = train_on_two(
        tmp_path,
        {
            "ddp": (plain, None),
            "fsdp": (shared, None),
            "fsdp_goes_on": (shared, "fsdp"),
            # a checkpoint has whole tensors
            "ddp_goes_on_from_fsdp": (plain, "fsdp"),
            "ddp_in_pieces": (settings(gradient_clip=0.1, accumulate_batches=2), None),
            "fsdp_in_pieces": (settings(gradient_clip=0.1, accumulate_batches=2, parallel="fsdp"), None),
        },
    )
    wanted = told.pop("ddp")
    assert wanted.losses[-1] < wanted.losses[0]
    for name, found in told.items():
        np.testing.assert_allclose(found.losses, wanted.losses, rtol=0, atol=TOLERANCE, err_msg=name)
        for key, value in wanted.weights.items():
            torch.testing.assert_close(found.weights[key], value, rtol=0, atol=1e-4, msg=f"{name}: {key}")
