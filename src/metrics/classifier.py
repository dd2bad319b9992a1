"""A small classifier whose penultimate layer serves as features, and the command that trains it."""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from src.pixels import from_uint8


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


def train(network: ClassifierNetwork, images: Tensor, labels: Tensor, steps: int, batch_size: int = 128) -> None:
    """Adam with a cosine schedule on images shifted by up to one pixel in eight.

    Args:
        network: trained in place, left in evaluation mode.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        steps: number of updates.
        batch_size: images in one update, drawn with replacement.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size, shift = network.image_size, max(1, network.image_size // 8)
    padded = F.pad(images, (shift,) * 4, mode="replicate")
    network.train()
    for _ in range(steps):
        index = torch.randint(len(images), (batch_size,))
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        x = from_uint8(padded[index, :, top : top + size, left : left + size])
        loss = F.cross_entropy(network(x), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: ClassifierNetwork, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 `images` [N, C, H, W] that the network assigns to `labels` [N], 0 to 1."""
    return (network(from_uint8(images)).argmax(dim=1) == labels).double().mean().item()


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


def main(arguments: list[str] | None = None) -> None:
    """Trains on the train split, prints the accuracy on the test split, writes the file."""
    parser = argparse.ArgumentParser(prog="python -m src.metrics.classifier", description=main.__doc__)
    parser.add_argument("--data", choices=["digits"], default="digits", help="labelled images to train on")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--steps", type=int, default=1500, help="number of updates")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file on one machine")
    options = parser.parse_args(arguments)

    from src.data.digits import Digits  # here alone: a metric imports no data

    data = Digits()
    (images, labels), (test_images, test_labels) = (
        tuple(map(torch.from_numpy, data.load(split))) for split in ("train", "test")
    )
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in several threads depend on their number
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ClassifierNetwork(images.shape[-1], images.shape[1], int(labels.max()) + 1, widths=[32, 64, 64])
        train(network, images, labels, options.steps)
    torch.set_num_threads(num_threads)

    test_accuracy = accuracy(network, test_images, test_labels)
    save(
        options.output,
        network,
        name=options.data,
        test_accuracy=test_accuracy,
        num_test=len(test_labels),
        steps=options.steps,
        seed=options.seed,
    )
    print(f"{options.output}: accuracy {test_accuracy:.2%} on {len(test_labels)} held-out images")


if __name__ == "__main__":
    main()
