"""A FID of two folders against torch-fidelity computing the same one from the same files and the same weights.

Wall time of the whole computation, files decoded and all, with the statistics of the real images kept from an earlier
call, as in every use but the first. Random weights, as the original ones may not be at hand: the network and its cost
are the same. With fewer images than features torch-fidelity's square root is itself off by some 1e-5.

    PYTHONPATH=. python tests/benchmarks/fid.py --num_images 200
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch_fidelity
from features import random_weights
from PIL import Image

from src.commands.score import extract
from src.data.folder import ImageFolder
from src.metrics.features import Inception
from src.metrics.fid import FrechetDistance

FEW = 20  # generated images of the first turn


def write_images(folder: Path, count: int, seed: int) -> str:
    folder.mkdir()
    random = np.random.RandomState(seed)
    for i in range(count):
        coarse = random.randint(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.png")
    return str(folder)


def ours(real: str, fake: str, weights: str, cache: str) -> float:
    metric = FrechetDistance(Inception(weights))
    metric.setup("cpu")
    sets = [ImageFolder(path, image_size=32, cache_dir=f"{cache}/images") for path in (real, fake)]
    features = [extract(data, metric, f"{cache}/features", "these") for data in sets]
    return metric.figures(*features, errors=False, protocol={})[0]["value"]


def theirs(real: str, fake: str, weights: str, cache: str) -> float:
    with contextlib.redirect_stderr(io.StringIO()):
        return torch_fidelity.calculate_metrics(
            input1=fake, input2=real, fid=True, cuda=False, feature_extractor_weights_path=weights, verbose=False,
            cache_root=cache, cache_input2_name="real", save_cpu_ram=True,
        )["frechet_inception_distance"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num_images", type=int, default=2000, help="images in each folder")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of measurements")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = str(random_weights(folder))
        real = write_images(folder / "real", options.num_images, 0)
        for turn in range(options.rounds + 1):  # the first one keeps the statistics of the real images
            count = options.num_images if turn else min(options.num_images, FEW)
            fake, values, seconds = write_images(folder / f"fake{turn}", count, 1 + turn), [], []
            for compute, cache in ((theirs, "theirs"), (ours, "ours")):
                start = time.perf_counter()
                values.append(compute(real, fake, weights, str(folder / cache)))
                seconds.append(time.perf_counter() - start)
            print(
                f"{'first' if turn == 0 else 'kept real statistics'}: torch-fidelity {seconds[0]:.1f} s, ours"
                f" {seconds[1]:.1f} s, ratio {seconds[0] / seconds[1]:.2f}; the same figure to"
                f" {abs(values[1] / values[0] - 1):.1e} ({os.cpu_count()} cores,"
                f" {options.num_images} real, {count} generated images)",
                flush=True,
            )


if __name__ == "__main__":
    main()
