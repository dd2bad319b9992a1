"""Seconds an image of our Inception features against torchmetrics' own extractor, on the CPU.

The two take turns (A B A B ...) on the same 32x32 images and the same random weights, because machines are shared and
their speed drifts; the ratio of neighbours counts. torchmetrics' network is the one that FrechetInceptionDistance
builds, fed the same batches. Ours has the batch norm folded, its weights in channels_last, and batches of 16 on a CPU.

    PYTHONPATH=. python tests/benchmarks/features.py
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from src.metrics.features import Inception


class Unloaded(FeatureExtractorInceptionV3):
    """The network with the weights of its constructor."""

    def load_state_dict(self, state_dict):
        pass


def random_weights(folder: Path) -> Path:
    """A file of random weights in torch-fidelity's format."""
    torch.save({}, folder / "empty.pth")
    network = Unloaded("random", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def seconds(extract, images: torch.Tensor) -> float:
    """Wall time of one image."""
    start = time.perf_counter()
    with torch.inference_mode():
        extract(images)
    return (time.perf_counter() - start) / len(images)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="pairs of measurements")
    parser.add_argument("--num_images", type=int, default=48, help="images of one measurement, one batch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(random_weights(Path(folder)))
        theirs = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=path).inception
        ours = {"tf1": Inception(path).load(), "clean": Inception(path, "clean").load()}
    images = torch.randint(256, (options.num_images, 3, 32, 32), dtype=torch.uint8)
    extractors = {"torchmetrics": theirs, "ours, tf1": ours["tf1"], "ours, clean": ours["clean"]}
    for extract in extractors.values():
        seconds(extract, images)  # the first call allocates
    times = {name: [] for name in extractors}
    for _ in range(options.rounds):
        for name, extract in extractors.items():
            times[name].append(seconds(extract, images))
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, {options.rounds} rounds of {len(images)}")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(times["torchmetrics"], values, strict=True)]
        low, high = min(ratios), max(ratios)
        print(
            f"{name:13} {1000 * statistics.median(values):6.1f} ms an image, "
            f"{statistics.median(ratios):.2f} times the speed of torchmetrics ({low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
