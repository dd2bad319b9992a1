"""What goes wrong, in pictures: runs that are spoiled on purpose, below the images they learn; `make study-trouble`."""

import colorsys
import csv
from pathlib import Path

import numpy as np
import torch
from common import FOLDER
from PIL import Image

from src.callbacks.pictures import grid
from src.cli import load, main
from src.data.digits import Digits
from src.images.pixels import to_uint8

HUES = FOLDER / "hues"
COLUMNS = 15
DENSE = ["--config", "configs/systems/gan_dense.yaml"]
CONV = ["--config", "configs/systems/gan_conv.yaml"]
COLOURED = [*CONV, "--data", "ImageFolder", "--data.root", str(HUES)]
COLOURED += ["--data.image_size", "28", "--data.labels", "false"]
R1 = ["--config", "configs/overlays/gan_with_r1.yaml"]
FAST = ["--model.g_optimizer.lr", "0.002", "--model.d_optimizer.lr", "0.002"]
UNEQUAL = ["--model.g_optimizer.lr", "0.02", "--model.d_optimizer.lr", "0.0002"]
for player in "gd":  # as the picture was made
    UNEQUAL += [f"--model.{player}_optimizer.betas", "[0.5,0.999]", f"--model.{player}_scheduler", "null"]
TROUBLES = {  # name of the picture -> arguments of `fit`
    "overfitting": [*CONV, "--data.subset", "50", "--trainer.max_steps", "1600"],
    "collapse": [*DENSE, *UNEQUAL, "--trainer.max_steps", "1000"],
    "checkerboard": [*COLOURED, *FAST, "--trainer.max_steps", "600"],
    "one_hue": [*COLOURED, *R1, "--trainer.max_steps", "400"],
}


def colour(digits: np.ndarray) -> np.ndarray:
    """The digits [N, 1, H, W], each in a hue of its own: [N, 3, H, W]; written as a folder of images, too."""
    random = np.random.RandomState(0)
    hues = np.array([colorsys.hsv_to_rgb(random.rand(), 1, 1) for _ in digits])
    coloured = (digits * hues[:, :, None, None]).astype(np.uint8)
    HUES.mkdir(parents=True, exist_ok=True)
    for i, digit in enumerate(coloured):
        Image.fromarray(digit.transpose(1, 2, 0)).save(HUES / f"{i:04}.png")
    return coloured


def samples(name: str, arguments: list[str]) -> torch.Tensor:
    """Two rows of what a run makes, uint8 [N, C, H, W]; prints how the two players stood in its validations."""
    run_dir = FOLDER / "trouble" / name
    quick = ["--trainer.logger", "false", "--model.metrics", "null", "--trainer.val_check_interval", "200"]
    main(["fit", *arguments, *quick, "--run_dir", str(run_dir), "--resume"])
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("diversity")]
    for figure in ("overfitting", "diversity", "accuracy/train", "accuracy/held_out", "accuracy/fake"):
        print(name, figure, *(f"{float(row[figure]):.2f}" for row in rows if row.get(figure)))
    return to_uint8(load(str(run_dir / "checkpoints" / "last.ckpt")).sample(torch.arange(2 * COLUMNS)))


if __name__ == "__main__":
    digits = Digits(image_size=28).load("train")[0]
    real = {1: torch.from_numpy(digits[:COLUMNS]), 3: torch.from_numpy(colour(digits)[:COLUMNS])}
    for trouble, arguments in TROUBLES.items():
        fake = samples(trouble, arguments)
        picture = torch.cat([real[fake.shape[1]], fake])
        grid(picture, COLUMNS, least_size=56).save(Path(".assets") / f"{trouble}.png")
