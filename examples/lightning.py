"""Distil a student from a cache with Lightning, whose checkpoints hold the loader's place in the epoch.

python examples/lightning.py CACHE_URI [FOLDER [CHECKPOINT]]
"""

import sys
from typing import Any

import pytorch_lightning
import timm
import torch

import kd_ray.cache
from kd_ray.training.losses.response import kd_loss


class Distilled(pytorch_lightning.LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.student = timm.create_model("resnet10t", num_classes=num_classes)

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        loss = kd_loss(self.student(batch["image"]), batch["targets"]["logits"], temperature=2.0)
        print(f"after {batch['position'].tolist()}: loss {loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(cache_uri: str, folder: str = "lightning", checkpoint: str | None = None) -> None:
    dataset = kd_ray.cache.open(cache_uri).torch_dataset(size_px=32, outputs=["logits"], batch_size=16)
    (num_classes,) = dataset.target_shapes["logits"]
    saving = pytorch_lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
    trainer = pytorch_lightning.Trainer(max_epochs=2, callbacks=saving, logger=False, enable_progress_bar=False)
    trainer.fit(Distilled(num_classes), dataset.loader(num_workers=2), ckpt_path=checkpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
