"""What a generator learns of clean digits from incomplete ones: AmbientGAN against damaged and filled-in images.

Digits of 8x8 and of 28x28, three seeds, every run with the networks, penalties and steps of `igm_digits.yaml`.
Prints the tables, draws the picture.
"""

import torch
from common import FOLDER, measure, spread, table

from src.callbacks.pictures import grid
from src.cli import load
from src.data.digits import Digits
from src.data.mnist import SmallMNIST
from src.images.measurements import MissingPixels
from src.images.pixels import from_uint8, to_uint8

SEEDS = range(3)
SHARES = (0.5, 0.8)
CONFIG = ["--config", "configs/systems/igm_digits.yaml", "--trainer.val_check_interval", "100000"]
DATA = {
    "8x8": [],
    "28x28": ["--config", "configs/overlays/igm_28.yaml"],
    "8x8 without labels": ["--data.labels", "false"],
}
# Without a measurement there is no mask to share, to show or to add to.
UNMEASURED = ["--model.measurement", "null", "--model.augment", "null", "--model.discriminator.mask", "false"]
METHODS = {  # what the GAN is trained on -> options beside those of the damage
    "measurements, with measured fakes (AmbientGAN)": [],
    "damaged images": UNMEASURED,
    "images filled in (harmonic)": [*UNMEASURED, "--data.inpaint", "harmonic"],
}
COLUMNS = 20  # of the picture


def distance(name: str, options: list[str]) -> list[float]:
    """Frechet distances from the clean test images, one a seed."""
    figures = measure(f"igm/{name}", [*CONFIG, *options], SEEDS)
    return next(values for figure, values in figures.items() if figure.endswith("-test"))


def damaged(share: float) -> list[str]:
    """Options that hide a share of the pixels; those of the model first, since a method may say otherwise."""
    return ["--model.measurement.share", str(share), "--data.measurement.share", str(share)]


def study(data: str) -> None:
    """The table of some data."""
    options, folder = DATA[data], data.replace(" ", "_")
    clean = distance(f"{folder}-clean", [*options, *UNMEASURED, "--data.measurement", "null"])
    floor = sum(clean) / len(clean)
    rows = [["clean images (the floor)", *[spread(clean, 2)] * len(SHARES)]]
    for i, (name, more) in enumerate(METHODS.items()):
        found = [distance(f"{folder}-method{i}-{share}", [*options, *damaged(share), *more]) for share in SHARES]
        rows.append([name, *(f"{spread(of, 2)}, {sum(of) / len(of) / floor:.1f} times the floor" for of in found)])
    print(table([f"{data}, trained on", *(f"{share:.0%} of the pixels missing" for share in SHARES)], rows))


def picture(size: str, path: str) -> None:
    """What was seen, and what each method makes of its classes, for each share of missing pixels."""
    images, labels = (SmallMNIST() if size == "28x28" else Digits()).split("train")
    real, classes = from_uint8(torch.from_numpy(images[:COLUMNS])), torch.from_numpy(labels[:COLUMNS])
    rows = []
    for share in SHARES:
        rows.append(MissingPixels(share)(real, torch.Generator().manual_seed(0)))
        for i in range(len(METHODS)):
            checkpoint = FOLDER / "igm" / f"{size}-method{i}-{share}" / "seed0" / "checkpoints" / "last.ckpt"
            rows.append(load(str(checkpoint)).sample(torch.arange(COLUMNS), classes))
    grid(to_uint8(torch.cat(rows)), COLUMNS).save(path)


if __name__ == "__main__":
    for data in DATA:
        study(data)
    picture("28x28", ".assets/igm.png")
