"""How the two players stand: what the discriminator makes of images it has, and has not, been trained on; a doctor."""

import math
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device as move_to
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_map_only

NUM_IMAGES = 1000  # of each kind
NUM_VALUES = 2**24  # fewer large images: 1,000 of 64x64 in colour, 100 of 256x256
REMEDIES = {
    "overfitting": "the discriminator learns the training images by heart: add augmentation, raise the weight of R1,"
    " or get more data",
    "collapse": "the samples resemble each other far more than real images do (mode collapse): lower the learning"
    " rates, add R1 or a gradient penalty, or go back to best.ckpt",
    "vanishing": "hardly any gradient reaches the generator: use the non-saturating loss, a weaker discriminator or"
    " instance noise",
    "d_wins": "the discriminator tells real from generated images without fail: lower its learning rate, add R1 or"
    " instance noise",
    "g_wins": "the discriminator takes nearly all generated images for real: raise its learning rate or model.d_steps",
}


class PlayerBalance(Callback):
    """Logs how the discriminator judges training, held-out and generated images at every validation, and diagnoses.

    The accuracy counts logits above 0 as "real", which calibrated losses (`Loss.calibrated`) mean; for Wasserstein and
    relativistic losses only the differences between logits say something, and no player "wins".

    Figures: `accuracy/*` and `logits/*`; `overfitting`, the share of the way from training to generated images that
    held-out ones lie on, in logits (r_v of arXiv:2006.06676, Eq. 1: 0 is none, 1 complete); `diversity`, the median
    distance of a sample to its nearest neighbour among the samples, relative to the same among as many real images.

    Args:
        doctor: warn, once for each, when a figure passes what is healthy, and name the likely remedy.
    """

    def __init__(self, doctor: bool = True):
        self.doctor = doctor
        self.said: list[str] = []
        self.largest_gradient = 0.0
        self.real_spacing: dict[int, float] = {}  # of so many

    def state_dict(self) -> dict[str, Any]:
        return {"said": self.said, "largest_gradient": self.largest_gradient}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.said, self.largest_gradient = state_dict["said"], state_dict["largest_gradient"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        values = self.examine(trainer.datamodule, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        gradient = pl_module.logged.get("grad_norm/generator")  # not before the first log, nor without a gradient
        self.largest_gradient = max(self.largest_gradient, gradient or 0.0)
        if self.doctor and trainer.state.fn == "fit":
            values["gradient"] = 1.0 if gradient is None else gradient / (self.largest_gradient or 1.0)
            for ailment in diagnose(values, pl_module.loss.calibrated):
                if ailment not in self.said:
                    self.said.append(ailment)
                    rank_zero_warn(f"step {trainer.global_step}: {REMEDIES[ailment]}")

    def examine(self, data: Any, gan: LightningModule) -> dict[str, float]:
        values = {}
        number = min(NUM_IMAGES, max(100, NUM_VALUES // math.prod(gan.generator.output_shape)))
        for name, split in (("train", "train"), ("held_out", "test")):
            if split in data.splits:
                x, condition = data.examples(split, number)
                logits = judged(gan, x, condition)
                values |= {
                    f"logits/{name}": logits.mean().item(),
                    f"accuracy/{name}": (logits > 0).float().mean().item(),
                }
                if name == "train":
                    real = x
        numbers = torch.arange(min(number, gan.val_images))
        condition = data.conditions(numbers)
        samples = gan.measurement(gan.sample(numbers, move_to(condition, gan.device)))
        logits = judged(gan, samples, condition)
        values |= {"logits/fake": logits.mean().item(), "accuracy/fake": (logits < 0).float().mean().item()}
        if "logits/held_out" in values:
            train, held_out, fake = (values[f"logits/{name}"] for name in ("train", "held_out", "fake"))
            values["overfitting"] = (train - held_out) / max(train - fake, 0.1)
        as_many = min(len(real), len(samples))
        if as_many not in self.real_spacing:
            self.real_spacing[as_many] = spacing(real[:as_many])
        values["diversity"] = spacing(samples[:as_many].cpu()) / max(self.real_spacing[as_many], 1e-6)
        return values


def diagnose(values: dict[str, float], calibrated: bool = True) -> list[str]:
    """Keys of `REMEDIES` for what is wrong.

    Args:
        values: figures of `PlayerBalance`, and `gradient`, the norm of the generator's gradient over its largest.
        calibrated: whether a logit above 0 means "real".
    """
    fooled, caught = values["accuracy/fake"] < 0.05, values["accuracy/fake"] > 0.99
    return [
        ailment
        for ailment, present in {
            "overfitting": values.get("overfitting", 0.0) > 0.6,  # the target of ADA, arXiv:2006.06676, Section 3.1
            "collapse": values["diversity"] < 0.3,
            "vanishing": values["gradient"] < 0.001,
            "d_wins": calibrated and caught and values["accuracy/train"] > 0.99,
            "g_wins": calibrated and fooled and values["accuracy/train"] > 0.5,
        }.items()
        if present
    ]


def spacing(x: Tensor) -> float:
    """Median distance of an example [n, ...] to its nearest neighbour among the others."""
    flat = x.flatten(1).double()  # products in float32 would take near copies for copies
    distances = torch.cdist(flat, flat, compute_mode="use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.min(1).values.median().item()


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
