"""The step of `fit` against the loop of a tutorial on the same networks: `make bench`, and on a GPU `make bench-gpu`.

Both do the same updates. The tutorial's loop is plain PyTorch: real and fake images one after the other, Adam as it is,
float32, weights in the order of their construction; D's gradient is computed in G's update too, and thrown away. `fit`
also seeds every step, keys its noise, looks for faults and writes curves. Images are random.

They take turns (A B C C B A ...), because machines are shared and their speed drifts, and the ratio within a turn
counts: above 1, `fit` is faster. On a CPU the processor time of the process is measured, on a GPU the time until it is
idle again. `--threads 1` leaves the other cores alone.
"""

import argparse
import contextlib
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import nn

from src.callbacks.loggers import CSV
from src.callbacks.progress import StepBar
from src.cli import Trainer, quieten
from src.data.images import ImageDataModule
from src.engine.ema import EMA
from src.gan import GAN
from src.images.augment import Translation
from src.networks import dcgan, r3gan, resnet, stylegan2
from src.objectives.losses import Hinge, Loss, NonSaturating, RelativisticPairing
from src.objectives.regularizers import R1, R2, Regularizer


class Experiment(NamedTuple):
    """What is trained, and for how many steps a turn: a multiple of the interval of its penalties."""

    generator: Callable[..., nn.Module]
    discriminator: Callable[..., nn.Module]
    steps: int
    image_size: int = 32
    channels: int = 3
    num_classes: int = 0
    batch_size: int = 64
    loss: type[Loss] = NonSaturating
    regularizers: tuple[Regularizer, ...] = ()
    augment: bool = False
    average: bool = True

    def players(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        facts = {"image_size": (self.image_size,) * 2, "channels": self.channels, "num_classes": self.num_classes}
        return self.generator(**facts), self.discriminator(**facts)


EXPERIMENTS = {
    "digits.yaml, 8x8": Experiment(
        partial(dcgan.Generator, width=64, num_blocks=2),
        partial(dcgan.Discriminator, width=64, num_blocks=2, batch_norm=False),
        steps=64, image_size=8, channels=1, num_classes=10, regularizers=(R1(0.1, every=8),),
    ),
    "DCGAN, 32x32, width 64": Experiment(
        partial(dcgan.Generator, width=64), partial(dcgan.Discriminator, width=64, batch_norm=False),
        steps=8, average=False,
    ),
    "SNGAN, 32x32, width 64, batch 32": Experiment(
        partial(resnet.Generator, width=64), partial(resnet.Discriminator, width=64, num_down=2),
        steps=4, batch_size=32, loss=Hinge, average=False,
    ),
    "residual G, DCGAN D, 32x32": Experiment(  # `folder.yaml` until November 2026
        partial(resnet.Generator, width=64), partial(dcgan.Discriminator, width=32, batch_norm=False),
        steps=8, loss=RelativisticPairing, regularizers=(R1(0.3, every=8), R2(0.3, every=8)), augment=True,
    ),
}  # fmt: skip
LARGE = {  # too slow for a CPU
    "StyleGAN2, 32x32, width 256, batch 32": Experiment(
        partial(stylegan2.Generator, width=256), partial(stylegan2.Discriminator, width=256),
        steps=4, batch_size=32, regularizers=(R1(0.01, every=16),),
    ),
    "R3GAN, 32x32, width 256, batch 32": Experiment(
        partial(r3gan.Generator, width=256), partial(r3gan.Discriminator, width=256),
        steps=4, batch_size=32, loss=RelativisticPairing, regularizers=(R1(0.05), R2(0.05)),
    ),
}  # fmt: skip


class Noise(ImageDataModule):
    """Random images, with random labels where there are classes."""

    splits = ("train",)

    def __init__(self, experiment: Experiment):
        super().__init__(experiment.batch_size, labels=experiment.num_classes > 0)
        self.experiment = experiment
        self.describe(experiment.image_size, experiment.channels, [str(i) for i in range(experiment.num_classes)])

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        random, size = np.random.RandomState(0), self.experiment.image_size
        images = random.randint(0, 256, (1000, self.experiment.channels, size, size), dtype=np.uint8)
        return images, random.randint(0, max(1, self.experiment.num_classes), 1000)


class Variant(NamedTuple):
    """A way to run `fit`."""

    name: str
    precision: str
    cuda_graphs: bool = False
    compile_networks: bool = False


VARIANTS = [
    Variant("float32", "32-true"),
    Variant("bf16", "bf16-mixed"),
    Variant("float32+graphs", "32-true", cuda_graphs=True),
    Variant("bf16+graphs", "bf16-mixed", cuda_graphs=True),
    Variant("bf16+compiled", "bf16-mixed", compile_networks=True),
    Variant("bf16+both", "bf16-mixed", cuda_graphs=True, compile_networks=True),
]


def now(device: str) -> float:
    """Seconds of the processor, or of the clock once the GPU has done what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Clock(Callback):
    """Seconds from the end of step `warmup` to the end of step `last`."""

    def __init__(self, device: str, warmup: int, last: int):
        self.device, self.warmup, self.last = device, warmup, last

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.warmup:
            self.start = now(self.device)
        if trainer.global_step == self.last:
            self.seconds = now(self.device) - self.start


def warmup(device: str, experiment: Experiment) -> int:
    """Steps before the clock starts; a GPU needs its kernels chosen, compiled and recorded, and is quicker."""
    return max(2, experiment.steps // 4) if device == "cpu" else 100


def timed(device: str, experiment: Experiment) -> int:
    return experiment.steps if device == "cpu" else 200


def fit(device: str, experiment: Experiment, variant: Variant) -> float:
    """Seconds a step of `fit`."""
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)  # as in base.yaml
    gan = GAN(
        *experiment.players(), experiment.loss(), adam, adam,
        regularizers=list(experiment.regularizers), augment=[Translation()] if experiment.augment else None,
        ema=EMA(half_life=10000) if experiment.average else None,
        cuda_graphs=variant.cuda_graphs, compile_networks=variant.compile_networks,
    )  # fmt: skip
    first, steps = warmup(device, experiment), timed(device, experiment)
    clock = Clock(device, first, first + steps)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # the bar
        Trainer(
            accelerator=device, devices=1, precision=variant.precision, max_steps=first + steps, max_epochs=-1,
            logger=CSV(folder), log_every_n_steps=50, callbacks=[clock, StepBar()], enable_checkpointing=False,
            enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False, default_root_dir=folder,
        ).fit(gan, datamodule=Noise(experiment))  # fmt: skip
    return clock.seconds / steps


def tutorial(device: str, experiment: Experiment) -> float:
    """Seconds a step of a loop that one writes in an afternoon."""
    generator, discriminator = (player.to(device) for player in experiment.players())
    average = copy.deepcopy(generator)
    loss_of, augment = experiment.loss(), Translation() if experiment.augment else nn.Identity()
    g_optimizer, d_optimizer = (
        torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.5, 0.999)) for player in (generator, discriminator)
    )
    images, labels = map(torch.from_numpy, Noise(experiment).load("train"))

    def batch():
        index = torch.randint(len(images), (experiment.batch_size,))
        real = images[index].to(device).float() / 127.5 - 1
        return real, labels[index].to(device) if experiment.num_classes else None

    def generated(condition):
        z = torch.randn(experiment.batch_size, *generator.latent_shape, device=device)
        return augment(generator(z, condition))

    first, steps = warmup(device, experiment), timed(device, experiment)
    for step in range(first + steps):
        if step == first:
            start = now(device)
        real, condition = batch()
        d_optimizer.zero_grad()
        real, fake = augment(real), generated(condition).detach()
        loss = loss_of.discriminator(discriminator(real, condition), discriminator(fake, condition))
        for regularizer in experiment.regularizers:
            if (step + 1) % regularizer.every == 0:
                penalty = regularizer.penalty(discriminator, real, fake, condition)
                loss = loss + regularizer.weight * regularizer.every * penalty
        loss.backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        real_logits = None
        if loss_of.relativistic:
            real, condition = batch()
            with torch.no_grad():
                real_logits = discriminator(augment(real), condition)
        loss_of.generator(real_logits, discriminator(generated(condition), condition)).backward()
        g_optimizer.step()
        if experiment.average:
            with torch.no_grad():
                for old, new in zip(average.parameters(), generator.parameters(), strict=True):
                    old.lerp_(new, 0.005)
                for old, new in zip(average.buffers(), generator.buffers(), strict=True):
                    old.copy_(new)
    return (now(device) - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="turns of each")
    parser.add_argument("--threads", type=int, default=1, help="that compute")
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"], help="what computes")
    parser.add_argument("--variants", default="", help="names, with commas between them; all that the device has")
    parser.add_argument("--only", default="", help="experiments whose name contains this")
    options = parser.parse_args()
    device = options.accelerator.replace("gpu", "cuda")
    names = options.variants or ("float32,bf16" if device == "cpu" else ",".join(v.name for v in VARIANTS))
    variants = [variant for variant in VARIANTS if variant.name in names.split(",")]
    torch.set_num_threads(options.threads)
    quieten()
    where = f"{options.threads} thread(s)" if device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, {options.turns} turns; how many times as fast, range in brackets\n")
    print(
        f"| experiment | tutorial's loop, ms a step | {' | '.join(variant.name for variant in variants)} |",
        "|---" * (2 + len(variants)) + "|",
        sep="\n",
    )
    for name, experiment in (EXPERIMENTS if device == "cpu" else EXPERIMENTS | LARGE).items():
        if options.only not in name:
            continue
        runs = [partial(tutorial, device, experiment)]
        runs += [partial(fit, device, experiment, variant) for variant in variants]
        turns = []
        for turn in range(options.turns):
            order = range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs)))
            seconds = {place: runs[place]() for place in order}
            turns.append([seconds[place] for place in range(len(runs))])
        cells = [f"{1e3 * statistics.median(seconds[0] for seconds in turns):.2f}"]
        for place in range(1, len(runs)):
            ratios = [seconds[0] / seconds[place] for seconds in turns]
            cells.append(f"{statistics.median(ratios):.2f} [{min(ratios):.2f} {max(ratios):.2f}]")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
