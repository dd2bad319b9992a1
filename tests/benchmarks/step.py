"""The whole step of `fit` against a bare PyTorch loop on the same networks and data: `make bench`.

The two take turns (A B A B ...), because machines are shared and their speed drifts; the ratio of neighbours counts.
Both do the digits experiment: batches of 64, Adam, R1 every 8th update, the moving average. `fit` also seeds every
step, keys its noise, and logs every 50th step to metrics.csv.
"""

import argparse
import copy
import statistics
import tempfile
import time
from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback

from src.callbacks.loggers import CSV
from src.callbacks.progress import StepBar
from src.cli import Trainer, quieten
from src.data.digits import Digits
from src.engine.ema import EMA
from src.gan import GAN
from src.networks import dcgan
from src.objectives.losses import NonSaturating
from src.objectives.regularizers import R1

WARMUP = 25  # steps before the clock starts


class Clock(Callback):
    """Seconds from the end of step WARMUP to the end of the last step."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == WARMUP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())


def networks():
    torch.manual_seed(0)
    facts = {"image_size": (8, 8), "channels": 1, "num_classes": 10}
    generator = dcgan.Generator(**facts, width=64, num_blocks=2)
    return generator, dcgan.Discriminator(**facts, width=64, num_blocks=2, batch_norm=False)


def optimizer(parameters):
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


def with_fit(steps: int) -> float:
    generator, discriminator = networks()
    gan = GAN(
        generator, discriminator, NonSaturating(), optimizer, optimizer,
        regularizers=[R1(0.1, every=8)], ema=EMA(half_life=10000),
    )  # fmt: skip
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu", max_steps=WARMUP + steps, max_epochs=-1, logger=CSV(folder), log_every_n_steps=50,
            callbacks=[clock, StepBar()], enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
            use_distributed_sampler=False, default_root_dir=folder,
        ).fit(gan, datamodule=Digits(batch_size=64))  # fmt: skip
    return clock.seconds / steps


def bare(steps: int) -> float:
    generator, discriminator = networks()
    average = copy.deepcopy(generator)
    g_optimizer, d_optimizer = optimizer(generator.parameters()), optimizer(discriminator.parameters())
    images, labels = map(torch.from_numpy, Digits().load("train"))
    for step in range(WARMUP + steps):
        if step == WARMUP:
            start = time.perf_counter()
        index = torch.randint(len(images), (64,))
        real, label = images[index].float() / 127.5 - 1, labels[index]

        d_optimizer.zero_grad()
        discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = generator(torch.randn(64, 100), label)
        loss = F.softplus(-discriminator(real, label)).mean() + F.softplus(discriminator(fake, label)).mean()
        if (step + 1) % 8 == 0:
            x = real.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(discriminator(x, label).sum(), x, create_graph=True)
            loss = loss + 0.1 * 8 * gradient.square().sum((1, 2, 3)).mean() / 2
        loss.backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        discriminator.requires_grad_(False)
        F.softplus(-discriminator(generator(torch.randn(64, 100), label), label)).mean().backward()
        g_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), 0.005)
            for old, new in zip(average.buffers(), generator.buffers(), strict=True):
                old.copy_(new)
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="timed steps of one turn")
    parser.add_argument("--turns", type=int, default=7, help="turns of each")
    options = parser.parse_args()
    quieten()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.turns} turns of {options.steps} steps"
    )
    pairs = []
    for turn in range(options.turns):
        runs = [partial(with_fit, options.steps), partial(bare, options.steps)]
        if turn % 2:
            a, b = reversed([run() for run in reversed(runs)])
        else:
            a, b = (run() for run in runs)
        pairs.append((a, b))
        print(f"fit {1e3 * a:6.2f} ms a step, bare loop {1e3 * b:6.2f} ms, ratio {a / b:.3f}", flush=True)
    ratios = sorted(a / b for a, b in pairs)
    middle = statistics.median(ratios)
    print(f"step of fit / step of a bare loop: median {middle:.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
