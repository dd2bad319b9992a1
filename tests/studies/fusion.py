"""What a fused code is worth, and what the game and the prediction of the modalities each give: `fusion_digits.yaml`.

Three seeds, on digits of 8x8 and of 28x28; prints the tables, draws the picture.
"""

from pathlib import Path

import numpy as np
import torch
from common import FOLDER, Figures, measure, spread, table

from src.callbacks.pictures import grid
from src.cli import load
from src.data.mnist import SmallMNIST
from src.data.multimodal import MODALITIES, SpokenDigits
from src.images.pixels import to_uint8

CONFIG = ["--config", "configs/systems/fusion_digits.yaml"]
SIZES = {"8x8": [], "28x28": ["--config", "configs/overlays/fusion_28.yaml"]}
NO_GAME = ["--model.loss", "{class_path: src.objectives.losses.Weighted, init_args: {weight: 0}}"]
ARMS = {
    "game and prediction": [],
    "prediction alone": [*NO_GAME, "--model.regularizers", "null"],
    "game alone": ["--model.g_regularizers", "null"],
}
SEEDS = range(3)
COLUMNS = ("all", "delayed", "image", "audio", "text", "no-image", "no-audio", "no-text")


def row(name: str, figures: Figures, kind: str) -> list[str]:
    """Means and deviations over the seeds; nothing where there is no such figure."""
    values = [figures.get(f"{kind}-{column}") for column in COLUMNS]
    return [name, *(spread(of_seeds) if of_seeds else "" for of_seeds in values)]


def gain(ours: Figures, theirs: Figures) -> Figures:
    """Differences, seed by seed."""
    return {name: [a - b for a, b in zip(ours[name], theirs[name], strict=True)] for name in ours if name in theirs}


def picture(checkpoint: Path, path: str) -> None:
    """Held-out digits, one a column: the image, its degraded copy, and what is made of each modality and of all."""
    gan, data = load(str(checkpoint)), SpokenDigits(source=SmallMNIST())
    rows = np.array([np.flatnonzero(data.targets("test") == digit)[0] for digit in range(10)])
    images, condition = data.examples("test", 1000)
    condition = {name: values[rows] for name, values in condition.items()}
    lines = [images[rows], condition["image"]]
    for names in ([], *([name] for name in MODALITIES), MODALITIES):
        present = torch.tensor([name in names for name in MODALITIES]).expand(10, -1)
        lines.append(gan.sample(torch.arange(10), condition | {"present": present}))
    grid(to_uint8(torch.cat(lines)), columns=10).save(path)


def study(size: str) -> None:
    """The tables of one size."""
    quick = ["--trainer.val_check_interval", "100000"]
    found = {
        arm: measure(f"fusion/{size}-{i}", [*CONFIG, *SIZES[size], *options, *quick], SEEDS)
        for i, (arm, options) in enumerate(ARMS.items())
    }
    whole, (alone, _) = found["game and prediction"], list(found.values())[1:]
    rows = [row(f"fused code, {arm}", figures, "accuracy-code") for arm, figures in found.items()]
    rows.append(row("what the game adds", gain(whole, alone), "accuracy-code"))
    names = {"raw": "recordings side by side", "pooled": "their means and counts side by side"}
    rows += [row(name, whole, f"accuracy-{kind}") for kind, name in names.items()]
    print(table([f"{size}: linear probe on", *COLUMNS], rows))
    rows = [row(arm, figures, "right") for arm, figures in found.items()]
    print(table([f"{size}: right digits made of", *COLUMNS], rows))
    for arm, figures in found.items():
        print(arm, *(f"{name} {spread(values, 2)}" for name, values in figures.items() if name.startswith("fcd-")))


if __name__ == "__main__":
    for size in SIZES:
        study(size)
    picture(FOLDER / "fusion" / "28x28-0" / "seed0" / "checkpoints" / "last.ckpt", ".assets/fusion.png")
