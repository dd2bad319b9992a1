"""A small classifier whose penultimate layer serves as features, and the command that trains it."""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import trange

from src.images.pixels import from_uint8
from src.metrics.weights import first_line


class ClassifierNetwork(nn.Module):
    """Three or so convolutions with batch normalization, averaged over the image: logits, and the layer before them.

    Args:
        image_size: height and width of the images, in pixels.
        channels: of the images.
        num_classes: number of classes.
        widths: channels after each convolution; the last is the number of features.
    """

    def __init__(self, image_size: int, channels: int, num_classes: int, widths: list[int]) -> None:
        super().__init__()
        self.image_size, self.channels, self.num_classes, self.widths = image_size, channels, num_classes, widths
        self.num_features = widths[-1]
        blocks, size = [], image_size
        for width_in, width in zip([channels, *widths], widths, strict=False):
            blocks += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            if size > 4:
                blocks.append(nn.MaxPool2d(2))
                size //= 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(self.num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, channels, image_size, image_size] in [-1, 1] to [B, num_features]."""
        return self.blocks(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def train(
    network: ClassifierNetwork,
    images: Tensor,
    labels: Tensor,
    steps: int,
    batch_size: int = 128,
    rows: Tensor | None = None,
) -> None:
    """Adam with a cosine schedule on images shifted by up to one pixel in eight.

    Args:
        network: trained in place and where it is, left in evaluation mode.
        images: uint8 [N, C, H, W], in memory or mapped.
        labels: int64 [N].
        steps: number of updates.
        batch_size: images in one update, drawn with replacement.
        rows: int64 [M], the images to train on; none takes all.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size, shift = network.image_size, max(1, network.image_size // 8)
    device = network.head.weight.device
    rows = torch.arange(len(images)) if rows is None else rows
    network.train()
    for _ in trange(steps, desc="training the classifier", leave=False, disable=None):
        index = rows[torch.randint(len(rows), (batch_size,))]
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        padded = F.pad(images[index], (shift,) * 4, mode="replicate")
        x = from_uint8(padded[:, :, top : top + size, left : left + size].to(device))
        loss = F.cross_entropy(network(x), labels[index].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: ClassifierNetwork, images: Tensor, labels: Tensor, rows: Tensor | None = None) -> float:
    """Share of uint8 `images` [N, C, H, W], or of their `rows` alone, that the network assigns to `labels` [N]."""
    device = network.head.weight.device
    rows = torch.arange(len(images)) if rows is None else rows
    right = [network(from_uint8(images[i].to(device))).argmax(dim=1).cpu() == labels[i] for i in rows.split(500)]
    return torch.cat(right).double().mean().item()


def save(path: Path, network: ClassifierNetwork, **facts: str | float | int) -> None:
    """Writes weights and whatever rebuilds the network from the file alone.

    Args:
        path: where to write.
        network: what to write.
        facts: recorded beside the weights; `name` is needed.
    """
    built = {key: getattr(network, key) for key in ("image_size", "channels", "num_classes", "widths")}
    # One key: safetensors writes several in an order that changes from run to run, and with it the hash of the file.
    save_file(network.state_dict(), path, metadata={"classifier": json.dumps({**facts, "network": built})})


def load(path: Path) -> tuple[ClassifierNetwork, dict]:
    """The network in a file written by `save`, in evaluation mode, and the facts recorded with it."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["classifier"])
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    network = ClassifierNetwork(**facts.pop("network"))
    network.load_state_dict(weights)
    return network.eval(), facts


class Labelled(NamedTuple):
    """Images uint8 [N, C, H, W], their labels int64 [N], and which of them are used."""

    images: Tensor
    labels: Tensor
    rows: Tensor


def digits(name: str) -> tuple[Labelled, Labelled]:
    """The digits to train on and the held-out ones: "digits" of 8x8 pixels, or "mnist" of 28x28."""
    from src.data.digits import Digits  # here alone, as below: a metric imports no data
    from src.data.mnist import SmallMNIST

    data = {"digits": Digits, "mnist": SmallMNIST}[name]()
    return _all(*data.load("train")), _all(*data.load("test"))


def folder(
    root: str, test_root: str | None, image_size: int | None, label_column: str | None = None
) -> tuple[Labelled, Labelled]:
    """Images of a folder to train on, and held-out ones: those of `test_root` or of test/ in it, or else every tenth.

    Args:
        root: folder or .zip with one sub-folder a class, or a file of labels, as `ImageFolder` reads them.
        test_root: likewise, with the same classes.
        image_size: side of the square that the images are scaled and cut to; none takes the size of the files.
        label_column: column of labels.csv, where several might hold the labels.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the images have no labels, are not square, or are fewer than ten.
    """
    from src.data.folder import ImageFolder

    data = ImageFolder(root, test_root, image_size, label_column=label_column)
    height, width = data.image_size
    if height != width:
        raise ValueError(f"the images in {root} have {height}x{width} pixels: choose a square with --image_size")
    if data.num_classes == 0:
        raise ValueError(f"no labels in {root}: put the images of each class into a sub-folder of its own")
    data.setup("fit")
    train = _all(*data.split("train"))
    if "test" in data.splits:
        return train, _all(*data.split("test"))
    held_out = torch.zeros(len(train.rows), dtype=torch.bool)
    held_out[train.labels.argsort(stable=True)[9::10]] = True  # of every class its share
    if not held_out.any():
        raise ValueError(f"{len(train.images)} images in {root} are too few to hold out one in ten: give --test_root")
    return train._replace(rows=train.rows[~held_out]), train._replace(rows=train.rows[held_out])


def _all(images: np.ndarray, labels: np.ndarray) -> Labelled:
    if isinstance(images, np.memmap):
        images = np.load(images.filename, mmap_mode="c")  # PyTorch warns of arrays that cannot be written to
    return Labelled(torch.from_numpy(images), torch.from_numpy(labels), torch.arange(len(images)))


USE = """
model:
  metrics:
    - class_path: src.metrics.fid.FrechetDistance
      init_args:
        extractor:
          class_path: src.metrics.features.Classifier
          init_args: {{weights: {path}}}"""


def main(arguments: list[str] | None = None) -> None:
    """Trains a classifier on labelled images, prints its accuracy on held-out ones, writes it to a file.

    A distance on its features suits images far from ImageNet, of the size and the classes of an experiment.
    """
    parser = argparse.ArgumentParser(prog="python -m src.metrics.classifier", description=main.__doc__)
    parser.add_argument("--data", choices=["digits", "mnist", "folder"], default="digits", help="images to train on")
    parser.add_argument("--root", help="for folder: a folder or .zip with one sub-folder a class")
    parser.add_argument("--test_root", help="held-out images, likewise; without it, one in ten of --root is held out")
    parser.add_argument("--image_size", type=int, help="side in pixels, as in the experiment; default: of the files")
    parser.add_argument("--label_column", help="for folder: the column of labels.csv, where several might be it")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--widths", help="channels of each convolution; default: 32,64,64, for folder 48,96,96,128")
    parser.add_argument("--steps", type=int, default=1500, help="number of updates")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file on one machine")
    parser.add_argument("--device", default="cpu", help="cuda is faster, but does not repeat to the last bit")
    options = parser.parse_args(arguments)
    try:
        write(options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}".replace("--data.", "--")) from error  # options of the experiment, and ours


def write(options: argparse.Namespace) -> None:
    """Trains and writes what the command line asks for."""
    of_folder = options.data == "folder"
    if of_folder and options.root is None:
        raise ValueError("--data folder needs --root, the folder with one sub-folder of images a class")
    if not of_folder and (options.root or options.test_root or options.image_size or options.label_column):
        raise ValueError("--root, --test_root, --image_size and --label_column are of --data folder: add it")
    widths = options.widths or ("48,96,96,128" if of_folder else "32,64,64")
    try:
        widths = [int(width) for width in widths.split(",")]
    except ValueError:
        raise ValueError(f"--widths {options.widths} are no numbers: separate them by commas, as in 32,64,64") from None
    try:
        torch.empty(0, device=options.device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {options.device} is not here ({first_line(error)}): leave it out") from error
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.output.is_dir() or not os.access(options.output.parent, os.W_OK):
        raise ValueError(f"--output {options.output} cannot be written: name a file in a folder of yours")
    of = (options.root, options.test_root, options.image_size, options.label_column)
    train_set, test_set = folder(*of) if of_folder else digits(options.data)

    images, labels, rows = train_set
    num_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads if of_folder else 1)  # the shipped file must not depend on the number of threads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ClassifierNetwork(images.shape[-1], images.shape[1], int(labels.max()) + 1, widths)
        train(network.to(options.device), images, labels, options.steps, rows=rows)
    torch.set_num_threads(num_threads)

    test_accuracy = accuracy(network, *test_set)
    save(
        options.output,
        network.cpu(),
        name=Path(options.root).resolve().name.removesuffix(".zip") if of_folder else options.data,
        test_accuracy=test_accuracy,
        num_test=len(test_set.rows),
        steps=options.steps,
        seed=options.seed,
    )
    print(
        f"{options.output}: accuracy {test_accuracy:.2%} on {len(test_set.rows)} held-out images; to measure with it:"
    )
    print(USE.format(path=json.dumps(str(options.output))))


if __name__ == "__main__":
    main()
