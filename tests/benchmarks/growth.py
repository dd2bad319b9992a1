"""What grows with a run: its memory, the bytes that travel between processes, its images.

Four tables: the peak memory of `fit` beyond that of its imports against a tutorial's loop; the bytes that one step of a
configuration sends, which are counted; the time that image files take, once until they are in the cache and then a
batch; and a batch of images that fit into memory, and of more of them. The last is for a machine, a container or a
cgroup with a tenth of `--gigabytes`, and 0.8 GB for the program.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from PIL import Image
from step import EXPERIMENTS, VARIANTS, Experiment, Noise, fit, tutorial

from src.cli import CLI, quieten, start
from src.data.folder import ImageFolder
from src.data.images import ImageDataModule

ROOT = Path(__file__).parents[2]
FRESH, FORKED = multiprocessing.get_context("spawn"), multiprocessing.get_context("fork")


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


def write_images(folder: Path, count: int, size: int) -> None:
    """JPEG files: a hundred smooth pictures, again and again."""
    random, files = np.random.RandomState(0), []
    for _ in range(100):
        picture = Image.fromarray(random.randint(0, 256, (8, 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        picture.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    for i in range(count):
        (folder / f"{i:06}.jpg").write_bytes(files[i % 100])


def images_a_second(data: ImageDataModule, num_workers: int, seconds: float = 1.0) -> float:
    """Out of the cache, in batches as `training_step` gets them; of processor time, or by the clock with workers."""
    now = time.perf_counter if num_workers or isinstance(data, OnDisk) else time.process_time
    module = SimpleNamespace(seed=0, batches_per_step=1, accumulate=1)
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1, global_step=0)
    data.num_workers = num_workers
    count, begun = 0, None
    for batch in chain.from_iterable(repeat(data.train_dataloader())):
        data.on_after_batch_transfer(batch, 0)
        if begun is None:  # the workers have started
            begun = now()
            continue
        count += data.batch_size
        if (passed := now() - begun) > seconds:
            return count / passed


def held() -> float:
    """MB of memory that this process holds, files that it reads left out."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def cached(count: int, size: int, queue) -> None:
    """What so many image files cost, in a process of its own: its memory is then theirs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # the bar
        root, cache = Path(folder, "images"), Path(folder, "cache")
        root.mkdir()
        write_images(root, count, size)
        memory, begun = held(), time.process_time()
        data = ImageFolder(str(root), image_size=size, cache_dir=str(cache), labels=False, batch_size=64)
        data.prepare_data()
        seconds = time.process_time() - begun
        speeds = [images_a_second(data, num_workers) for num_workers in (0, 1, 2)]
        queue.put((seconds, sum(path.stat().st_size for path in cache.iterdir()) / 1e6, *speeds, held() - memory))


def images(counts: list[int], sizes: list[int]) -> None:
    columns = ("files", "size", "CPU s to build", "MB there", "images/s", "with 1 worker", "with 2", "MB held")
    print(f"\n| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    costs = []
    for count, size in [(count, size) for count in counts for size in sizes]:
        queue = FORKED.Queue()
        process = FORKED.Process(target=cached, args=(count, size, queue))
        process.start()
        seconds, there, *speeds, memory = queue.get()
        process.join()
        costs.append((count, count * size**2, seconds))
        told = " | ".join(f"{speed:,.0f}" for speed in speeds)
        print(f"| {count:,} | {size}x{size} | {seconds:.1f} | {there:.0f} | {told} | {memory:.0f} |", flush=True)
    factors = np.array(costs)
    (an_image, a_pixel), *_ = np.linalg.lstsq(factors[:, :2] / factors[:, 2:], np.ones(len(factors)), rcond=None)
    print(f"\nuntil in the cache: {1e6 * an_image:.0f} us an image and {1e9 * a_pixel:.1f} ns a pixel")


class OnDisk(Noise):
    """Random images in a memory map."""

    def __init__(self, path: Path):
        super().__init__(Experiment(None, None, 0))
        self.path = path

    def load(self, split: str) -> tuple[np.ndarray, None]:
        return np.load(self.path, mmap_mode="r"), None


def disk(gigabytes: float, turns: int) -> None:
    """Batches of 64 images of 32x32, out of a hundredth of them and out of all of them, in turns."""
    print("\n| MB of images | ms a batch | with 1 worker |", "|---|---|---|", sep="\n", flush=True)
    with tempfile.TemporaryDirectory(dir=".") as folder:  # /tmp may be memory
        counts = [int(share * gigabytes * 1e9) // 3072 for share in (0.01, 1)]
        for count in counts:
            written = np.lib.format.open_memmap(f"{folder}/{count}.npy", "w+", np.uint8, (count, 3, 32, 32))
            for start in range(0, count, 10000):
                written[start : start + 10000] = np.random.randint(0, 256, (1, 3, 32, 32), np.uint8)
            written.flush()
        found: dict[int, list] = {count: [] for count in counts}
        for turn in range(turns):
            for count in counts if turn % 2 == 0 else reversed(counts):
                data = OnDisk(Path(folder, f"{count}.npy"))
                found[count].append([64e3 / images_a_second(data, num_workers) for num_workers in (0, 1)])
        for count, times in found.items():
            told = (f"{np.median(t):.2f} ({min(t):.2f} to {max(t):.2f})" for t in zip(*times, strict=True))
            print(f"| {count * 3072 / 1e6:,.0f} | {' | '.join(told)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["memory", "travel", "images", "disk"], help="one of the tables")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000], help="of images")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="of images, in pixels")
    parser.add_argument("--gigabytes", type=float, default=8, help="of images on disk")
    parser.add_argument("--turns", type=int, default=5, help="of the batches of them")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    if options.only in (None, "memory"):
        memory()
    if options.only in (None, "travel"):
        travel()
    if options.only in (None, "images"):
        images(options.counts, options.sizes)
    if options.only in (None, "disk"):
        disk(options.gigabytes, options.turns)


if __name__ == "__main__":
    main()
