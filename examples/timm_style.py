"""A training loop as timm's own, with cross-entropy, to which a KD term from a cache is added.

python examples/timm_style.py CACHE_URI
"""

import sys

import torch
from timm import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3

import kd_ray.cache
from kd_ray.training.losses.labels import NO_LABEL
from kd_ray.training.losses.response import kd_loss


def main(cache_uri: str, num_epochs: int = 2, kd_weight: float = 1.0) -> None:
    dataset = kd_ray.cache.open(cache_uri).torch_dataset(size_px=32, outputs=["logits"], batch_size=16)
    loader = dataset.loader(num_workers=2)
    model = create_model("resnet10t", num_classes=dataset.target_shapes["logits"][0])
    model_ema = ModelEmaV3(model, decay=0.999)
    optimizer = create_optimizer_v2(model, opt="lamb", lr=5e-3, weight_decay=0.02)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=num_epochs, updates_per_epoch=len(loader))
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=NO_LABEL)
    for epoch in range(num_epochs):
        losses, kd_losses = AverageMeter(), AverageMeter()
        for batch in loader:
            output = model(batch["image"])
            loss = criterion(output, batch["label"])
            kd = kd_loss(output, batch["targets"]["logits"], temperature=2.0)  # the two lines
            (loss + kd_weight * kd).backward()  # that distil
            optimizer.step()
            optimizer.zero_grad()
            model_ema.update(model)
            losses.update(loss.item(), len(output))
            kd_losses.update(kd.item(), len(output))
        scheduler.step(epoch + 1)
        print(f"epoch {epoch}: cross-entropy {losses.avg:.4f}, kd {kd_losses.avg:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
