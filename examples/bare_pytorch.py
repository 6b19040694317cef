"""Distil a student from a cache in a bare PyTorch loop, and go on where an earlier run was stopped.

python examples/bare_pytorch.py CACHE_URI [CHECKPOINT]
"""

import sys
from pathlib import Path

import timm
import torch

import kd_ray.cache
from kd_ray.training.losses.response import kd_loss


def main(cache_uri: str, checkpoint: str = "bare_pytorch.pt") -> None:
    dataset = kd_ray.cache.open(cache_uri).torch_dataset(size_px=32, outputs=["logits"], batch_size=16)
    loader = dataset.loader(num_workers=2)
    (num_classes,) = dataset.target_shapes["logits"]
    student = timm.create_model("resnet10t", num_classes=num_classes)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    parts = {"student": student, "optimizer": optimizer, "loader": loader}
    if Path(checkpoint).exists():
        for name, state in torch.load(checkpoint).items():
            parts[name].load_state_dict(state)
    while loader.state_dict()["epoch"] < 2:
        for batch in loader:
            loss = kd_loss(student(batch["image"]), batch["targets"]["logits"], temperature=2.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
            print(f"after {batch['position'].tolist()}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
