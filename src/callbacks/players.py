"""How the two players stand: what the discriminator makes of real and generated images, and how those differ."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device as move_to
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from src.callbacks.doctor import CAUSES, EARLIEST, diagnose, remedies
from src.engine.modes import evaluating
from src.images.augment import Premultiply

NUM_IMAGES = 1000  # of each kind
NUM_VALUES = 2**24  # fewer large images: 1,000 of 64x64 in colour, 100 of 256x256
GREY_LEVEL = 2 / 255  # in [-1, 1]


class PlayerBalance(Callback):
    """Logs how the discriminator judges training, held-out and generated images at every validation, and diagnoses.

    The accuracy counts logits above 0 as "real", which calibrated losses (`Loss.calibrated`) mean; for Wasserstein and
    relativistic losses only the differences between logits say something, and no player "wins".

    Figures: `accuracy/*` and `logits/*`; `overfitting`, the share of the way from training to generated images that
    held-out ones lie on, in logits (r_v of arXiv:2006.06676, Eq. 1: 0 is none, 1 complete); `diversity`, the median
    distance of a sample to its nearest neighbour among the samples, relative to the same among as many real images;
    `color_diversity`, how much their mean colours differ, relative to real images; `checkerboard`, the power of their
    finest patterns over that of real images, in powers of ten.

    Args:
        doctor: warn, once for each, when a figure is not healthy at two validations in a row, after the first 50,000
            images, and name what may mend it.
    """

    needs_data = True  # a data module of src.data

    def __init__(self, doctor: bool = True):
        self.doctor = doctor
        self.said: list[str] = []
        self.suspected: list[str] = []  # at the last validation
        self.largest_gradient = 0.0
        self.real: dict[int, tuple[float, float, float]] = {}  # spacing, spread of colours, finest power; of so many

    def state_dict(self) -> dict[str, Any]:
        return {"said": self.said, "suspected": self.suspected, "largest_gradient": self.largest_gradient}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.said, self.largest_gradient = state_dict["said"], state_dict["largest_gradient"]
        self.suspected = state_dict.get("suspected", [])  # not in the checkpoints of yesterday

    def curve_names(self, data: Any) -> list[str]:
        """The curves of a validation."""
        names = ["logits/generated", "accuracy/fake", "diversity", "logits/train", "accuracy/train"]
        names += ["color_diversity", "checkerboard"] * are_images(data.examples("train", 1)[0])
        return names + ["logits/held_out", "accuracy/held_out", "overfitting"] * ("test" in data.splits)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before `on_validation_end`, where callbacks look at the curve that they monitor.
        if trainer.sanity_checking or trainer.fast_dev_run:
            return
        values = self.examine(trainer.datamodule, pl_module) if trainer.is_global_zero else {}
        pl_module.publish(values)
        if not trainer.is_global_zero:
            return
        gradient = pl_module.logged.get("grad_norm/generator")  # not before the first log, nor without a gradient
        self.largest_gradient = max(self.largest_gradient, gradient or 0.0)
        if self.doctor and trainer.state.fn == "fit":
            values["gradient"] = 1.0 if gradient is None else gradient / (self.largest_gradient or 1.0)
            found = diagnose(values, pl_module.loss.calibrated) if pl_module.images_seen >= EARLIEST else []
            has_best = (Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt").exists()
            for ailment in found:
                if ailment in self.suspected and ailment not in self.said:
                    self.said.append(ailment)
                    advice = ", or ".join(remedies(ailment, pl_module, has_best))
                    rank_zero_warn(f"step {trainer.global_step}: {CAUSES[ailment]}: {advice}")
            self.suspected = found

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
        samples = gan.measurement(gan.sample(numbers, condition))
        logits = judged(gan, samples, condition)
        values |= {"logits/generated": logits.mean().item(), "accuracy/fake": (logits < 0).float().mean().item()}
        if "logits/held_out" in values:
            train, held_out, fake = (values[f"logits/{name}"] for name in ("train", "held_out", "generated"))
            values["overfitting"] = (train - held_out) / max(train - fake, 0.1)
        as_many = min(len(real), len(samples))
        if as_many not in self.real:
            self.real[as_many] = look(real[:as_many])
        (apart, colors, finest), (apart_0, colors_0, finest_0) = look(samples[:as_many].cpu()), self.real[as_many]
        values["diversity"] = apart / max(apart_0, 1e-6)
        if are_images(real):
            values["color_diversity"] = colors / max(colors_0, 1e-6)
            values["checkerboard"] = math.log10(finest / finest_0)
        return values


def look(x: Tensor) -> tuple[float, float, float]:
    """What samples [n, ...] and real examples are compared by; the last two of images alone, as they are seen."""
    if not are_images(x):
        return spacing(x), 0.0, 1.0
    x = Premultiply()(x)
    return spacing(x), color_spread(x), finest_power(x)


def are_images(x: Tensor) -> bool:
    """Whether examples are images [n, C, H, W] with neighbouring pixels, not vectors or bags."""
    return x.ndim == 4 and min(x.shape[2:]) > 1


def color_spread(images: Tensor) -> float:
    """How much the mean colours of images [n, C, H, W] differ: the root of their variance, summed over channels."""
    return images.mean((2, 3)).var(0, correction=0).sum().sqrt().item()


def finest_power(images: Tensor) -> float:
    """Mean power of images [n, C, H, W] at the Nyquist frequency: of columns, rows and squares of single pixels.

    The artefacts of strided and transposed convolutions keep their phase over the whole image, so that they stand out
    from textures and noise. A pattern of one grey level, which nobody sees, is added.
    """
    height, width = (side // 2 * 2 for side in images.shape[2:])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [1 - 2.0 * (phase % 2) for phase in (rows, columns, rows + columns)]
    even = images[..., :height, :width].double()
    return sum((even * wave).mean((2, 3)).square().mean().item() for wave in waves) + GREY_LEVEL**2


def spacing(x: Tensor) -> float:
    """Median distance of an example [n, ...] to its nearest neighbour among the others."""
    flat = x.flatten(1).double()  # products in float32 would take near copies for copies
    distances = torch.cdist(flat, flat, compute_mode="use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return distances.min(1).values.median().item()


@torch.no_grad()
def judged(gan: LightningModule, x: Tensor, condition: Any) -> Tensor:
    """Logits [N], on the CPU, of examples [N, ...], by the discriminator as it evaluates."""
    parts = [tree_map_only(Tensor, lambda t, i=i: t[i : i + 100], (x, condition)) for i in range(0, len(x), 100)]
    fixed = nn.Sequential(*(part for part in gan.augment if part.fixed))
    with evaluating(gan.discriminator):
        moved = (move_to(part, gan.device) for part in parts)
        return torch.cat([gan.judge(fixed(images), condition).cpu() for images, condition in moved])
