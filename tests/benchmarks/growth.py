"""What a step needs beside time: memory, and bytes that travel between processes.

Two tables: the peak memory of `fit` beyond that of its imports against a tutorial's loop, and the bytes that one step
of a configuration sends, which are counted.
"""

import argparse
import multiprocessing
import resource
from pathlib import Path

import torch
import yaml
from step import EXPERIMENTS, VARIANTS, fit, tutorial

from src.cli import CLI, quieten, start

ROOT = Path(__file__).parents[2]
FRESH = multiprocessing.get_context("spawn")


def peak(name: str, loop: str, queue) -> None:
    """MB of memory that training takes beyond what the imports took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.set_num_threads(1)
    fit("cpu", EXPERIMENTS[name], VARIANTS[0]) if loop == "fit" else tutorial("cpu", EXPERIMENTS[name])
    queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> None:
    print("\n| networks | fit, MB beyond the imports | tutorial's loop |", "|---|---|---|", sep="\n")
    for name in EXPERIMENTS:
        found = []
        for loop in ("fit", "tutorial"):
            queue = FRESH.Queue()
            process = FRESH.Process(target=peak, args=(name, loop, queue))
            process.start()
            found.append(queue.get())
            process.join()
        print(f"| {name} | {found[0]:.0f} | {found[1]:.0f} |", flush=True)


class Built(CLI):
    """Builds what `fit` would, and stops there."""

    def fit(self, **_) -> None: ...
    def before_fit(self) -> None: ...
    def after_fit(self) -> None: ...


def travel() -> None:
    print("\n| configuration | weights of G, of D | MB a step | sent by each of 8 |", "|---|---|---|---|", sep="\n")
    for path in sorted((ROOT / "configs").glob("*.yaml")) + sorted((ROOT / "configs" / "recipes").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        source = str(config.get("data", {}).get("class_path")).split(".")[-1]
        if source not in ("CIFAR10", "MNIST", "SmallMNIST", "Digits"):
            continue
        gan = start(Built, ["fit", "--config", str(path), "--trainer.logger", "false"]).model
        g, d = (sum(p.numel() for p in player.parameters()) for player in (gan.generator, gan.discriminator))
        megabytes = 4e-6 * (g + gan.d_steps * d)  # the gradients of G once, those of D at each of its updates
        sent = 2 * 7 / 8 * megabytes  # a ring: each hands on 7 eighths twice
        print(f"| {path.name} | {g / 1e6:.2f}, {d / 1e6:.2f} million | {megabytes:.1f} | {sent:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["memory", "travel"], help="one of the tables")
    options = parser.parse_args()
    quieten()
    if options.only in (None, "memory"):
        memory()
    if options.only in (None, "travel"):
        travel()


if __name__ == "__main__":
    main()
