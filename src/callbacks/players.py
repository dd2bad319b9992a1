"""How the two players stand: what the discriminator makes of images that it has, and has not, been trained on."""

from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device as move_to
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_map_only

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
                logits = judged(pl_module, *data.examples(split, NUM_IMAGES))
                values |= {
                    f"logits/{name}": logits.mean().item(),
                    f"accuracy/{name}": (logits > 0).float().mean().item(),
                }
        numbers = torch.arange(min(NUM_IMAGES, pl_module.val_images))
        condition = data.conditions(numbers)
        samples = pl_module.sample(numbers, move_to(condition, pl_module.device))
        logits = judged(pl_module, pl_module.measurement(samples), condition)
        values["accuracy/fake"] = (logits < 0).float().mean().item()
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


@torch.no_grad()
def judged(gan: LightningModule, x: Tensor, condition: Any) -> Tensor:
    """Logits [N], on the CPU, of examples [N, ...], by the discriminator as it evaluates."""
    training = gan.discriminator.training
    gan.discriminator.eval()
    try:
        parts = [tree_map_only(Tensor, lambda t, i=i: t[i : i + 100], (x, condition)) for i in range(0, len(x), 100)]
        return torch.cat([gan.judge(*move_to(part, gan.device)).cpu() for part in parts])
    finally:
        gan.discriminator.train(training)
