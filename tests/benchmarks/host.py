"""What a step of `fit` costs beside the arithmetic: networks of one unit, against a bare loop with the same ones.

`fit` is the command line's: its bar, its checkpoints, keyed noise, a look at every gradient, curves at every 50th step.
The bare loop does nothing that the mathematics does not need: it draws from one stream, judges real and generated
images in one call, and keeps no curve. The two take turns, and the quickest 25 steps of a turn count, in processor time
of their thread: machines are shared, and what others do only ever adds.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback

from src.cli import main as command
from src.data.digits import Digits
from src.networks import mlp

WINDOW = 25  # steps
ONE_UNIT = {"latent_dim": 1, "hidden": (1,)}
ADAM = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}


class Stopwatch:
    """Milliseconds a step, of each window of steps but the first."""

    def __init__(self):
        self.windows, self.start = [], None

    def tick(self, step: int) -> None:
        if step % WINDOW == 0:
            now = time.thread_time()
            if self.start is not None:
                self.windows.append(1e3 * (now - self.start) / WINDOW)
            self.start = time.thread_time()


class Clock(Callback):
    """Watches a run; `Clock.watch` is that of the newest."""

    def __init__(self):
        Clock.watch = Stopwatch()

    def on_train_batch_end(self, trainer, *_):
        self.watch.tick(trainer.global_step)


def with_fit(steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        experiment = {
            "trainer": {
                "accelerator": "cpu", "max_steps": steps, "limit_val_batches": 0, "logger": False,
                "callbacks": [{"class_path": f"{Clock.__module__}.Clock"}],
            },
            "model": {
                "generator": {"class_path": "mlp.Generator", "init_args": ONE_UNIT | {"hidden": [1]}},
                "discriminator": {"class_path": "mlp.Discriminator", "init_args": {"hidden": [1]}},
                "ema": {"class_path": "EMA", "init_args": {"half_life": 10000}},
                "metrics": None,
            },
            "data": {"class_path": "Digits"},
        }  # fmt: skip
        path = Path(folder) / "one_unit.yaml"
        path.write_text(yaml.safe_dump(experiment))
        command(["fit", "--config", str(path), "--run_dir", f"{folder}/run"])
    return min(Clock.watch.windows)


def bare(steps: int) -> float:
    torch.manual_seed(0)
    facts = {"image_size": (8, 8), "channels": 1, "num_classes": 10}
    generator, discriminator = mlp.Generator(**facts, **ONE_UNIT), mlp.Discriminator(**facts, hidden=(1,))
    average = copy.deepcopy(generator)
    weights = list(average.parameters()), list(generator.parameters())
    g_optimizer, d_optimizer = (torch.optim.Adam(x.parameters(), **ADAM) for x in (generator, discriminator))
    images, labels = map(torch.from_numpy, Digits().load("train"))
    watch = Stopwatch()
    for step in range(steps):
        watch.tick(step)
        index = torch.randint(len(images), (64,))
        real, label = images[index].float() / 127.5 - 1, labels[index]

        d_optimizer.zero_grad()
        discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = generator(torch.randn(64, 1), label)
        real_logits, fake_logits = discriminator(torch.cat([real, fake]), torch.cat([label, label])).chunk(2)
        (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()).backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        discriminator.requires_grad_(False)
        F.softplus(-discriminator(generator(torch.randn(64, 1), label), label)).mean().backward()
        g_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(*weights, 0.005)
    return min(watch.windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of one turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of each")
    options = parser.parse_args()
    pairs = []
    for turn in range(options.turns):
        order = (with_fit, bare) if turn % 2 == 0 else (bare, with_fit)
        times = {run: run(options.steps) for run in order}
        pairs.append((times[with_fit], times[bare]))
    ours, theirs = zip(*pairs, strict=True)
    differences = [a - b for a, b in pairs]
    for name, values in (("fit", ours), ("bare loop", theirs), ("fit less bare loop", differences)):
        print(f"{name:<19}{statistics.median(values):6.2f} ms a step, {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
