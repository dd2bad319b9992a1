"""How the two players stand: what the discriminator makes of images that it has, and has not, been trained on."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src.pixels import from_uint8

NUM_IMAGES = 1000  # of each kind; the first ones of each split


class PlayerBalance(Callback):
    """Logs the discriminator's accuracy on training, held-out and generated images at every validation.

    Held-out images that it takes for fakes while it recognises training images mean that it learns the data by heart:
    more data, augmentation or a stronger penalty help. The accuracy counts logits above 0 as "real", which the
    losses of `src.losses` with a threshold at 0 all mean; for Wasserstein losses only the differences say something.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        data, values = trainer.datamodule, {}
        for name, split in (("train", "train"), ("held_out", "test")):
            if split in data.splits:
                images, labels = data.split(split)
                pixels = from_uint8(torch.from_numpy(images[:NUM_IMAGES].copy()))
                condition = None if labels is None else torch.from_numpy(labels[:NUM_IMAGES])
                logits = judged(pl_module, pixels, condition)
                values |= {
                    f"logits/{name}": logits.mean().item(),
                    f"accuracy/{name}": (logits > 0).float().mean().item(),
                }
        numbers = torch.arange(min(NUM_IMAGES, pl_module.val_images))
        condition = data.conditions(numbers)
        on_device = None if condition is None else condition.to(pl_module.device)
        logits = judged(pl_module, pl_module.sample(numbers, on_device).cpu(), condition)
        values["accuracy/fake"] = (logits < 0).float().mean().item()
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


@torch.no_grad()
def judged(gan: LightningModule, images: Tensor, condition: Tensor | None) -> Tensor:
    """Logits [N] of images [N, C, H, W] in [-1, 1], by the discriminator as it evaluates."""
    training = gan.discriminator.training
    gan.discriminator.eval()
    try:
        parts = zip(
            images.split(100), [None] * len(images) if condition is None else condition.split(100), strict=False
        )
        return torch.cat([gan.judge(x.to(gan.device), None if c is None else c.to(gan.device)).cpu() for x, c in parts])
    finally:
        gan.discriminator.train(training)
