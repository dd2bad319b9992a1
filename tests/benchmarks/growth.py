"""How time and memory grow with the number and the size of images, and what travels between processes.

Four tables: building the cache of a folder, reading batches of 64 of it in random order (from memory, and with none of
the file in memory, as where a set is much larger), the peak memory of `fit` beyond that of its imports against a
tutorial's loop, and the bytes that one step of a configuration sends. `--processes 2` reads with two at once.
"""

import argparse
import io
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from step import EXPERIMENTS, VARIANTS, fit, tutorial

from src.cli import CLI, quieten, start
from src.data.dataset import ImageDataset
from src.data.files import ImageFiles, decoded
from src.data.order import permutation

ROOT = Path(__file__).parents[2]
SETS = ((1_000, 16), (10_000, 16), (100_000, 16), (1_000, 64), (10_000, 64), (100_000, 64), (1_000, 256), (10_000, 256))
BATCHES = 200
FRESH = multiprocessing.get_context("spawn")


def write(folder: Path, number: int, size: int) -> None:
    """JPEG files of 100 different pictures, smooth ones with noise."""
    for seed in range(100):
        random = np.random.RandomState(seed)
        coarse = Image.fromarray(random.randint(0, 256, (4, 4, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
        noisy = np.clip(np.asarray(coarse) + random.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(file := io.BytesIO(), "JPEG", quality=90)
        for copy in range(seed, number, 100):
            (folder / f"{copy}.jpg").write_bytes(file.getvalue())


def read(path: str, cold: bool, queue) -> None:
    """Microseconds a batch of 64, in random order."""
    images = np.load(path, mmap_mode="r")
    dataset, order = ImageDataset(images, None, flip=False), permutation(len(images), 0, 0)
    file = os.open(path, os.O_RDONLY)
    seconds = []
    for batch in range(BATCHES):
        indices = order[torch.arange(64 * batch, 64 * batch + 64) % len(images)].tolist()
        if cold:
            dataset.images._mmap.madvise(4)  # MADV_DONTNEED: this process forgets its pages ...
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # ... and the system those of the file
        then = time.perf_counter()
        dataset[indices]
        seconds.append(time.perf_counter() - then)
    queue.put(1e6 * sorted(seconds)[BATCHES // 2])


def readings(path: str, cold: bool, processes: int) -> float:
    """The same, by so many processes at once; the mean over them."""
    queue = FRESH.Queue()
    readers = [FRESH.Process(target=read, args=(path, cold, queue)) for _ in range(processes)]
    for reader in readers:
        reader.start()
    found = [queue.get() for _ in readers]
    for reader in readers:
        reader.join()
    return sum(found) / processes


def grow(processes: int, most: int) -> None:
    print("| images | pixels | cache, s | us an image | MB | batch of 64 from memory, us | from disk, us |")
    print("|---|---|---|---|---|---|---|")
    for number, size in SETS:
        if number * size > most:
            continue
        with tempfile.TemporaryDirectory() as folder:
            (images := Path(folder) / "images").mkdir()
            write(images, number, size)
            files = ImageFiles(images, sorted(path.name for path in images.iterdir()))
            then = time.perf_counter()
            cache, _ = decoded(files, (size, size), 3, "crop", f"{folder}/cache", 0.01, None)
            seconds = time.perf_counter() - then
            warm, cold = (readings(cache.filename, cold, processes) for cold in (False, True))
            print(
                f"| {number:,} | {size} | {seconds:.1f} | {1e6 * seconds / number:.0f} | {cache.nbytes / 1e6:.0f}"
                f" | {warm:.0f} | {cold:.0f} |", flush=True,
            )  # fmt: skip


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
    parser.add_argument("--processes", type=int, default=1, help="that read at once")
    parser.add_argument("--most", type=int, default=10**8, help="images times pixels of a side, at most")
    parser.add_argument("--only", choices=["grow", "memory", "travel"], help="one of the tables")
    options = parser.parse_args()
    quieten()
    if options.only in (None, "grow"):
        grow(options.processes, options.most)
    if options.only in (None, "memory"):
        memory()
    if options.only in (None, "travel"):
        travel()


if __name__ == "__main__":
    main()
