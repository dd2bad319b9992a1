"""What a fused code is worth: the table and picture of `fusion_digits.yaml`, over three seeds."""

from pathlib import Path

import numpy as np
import torch
from common import FOLDER, Figures, measure, spread, table

from src.callbacks.pictures import grid
from src.cli import load
from src.data.multimodal import MODALITIES, SpokenDigits
from src.images.pixels import to_uint8

CONFIG = ["--config", "configs/systems/fusion_digits.yaml"]
SEEDS = range(3)
COLUMNS = ("all", "delayed", "image", "audio", "text", "no-image", "no-audio", "no-text")


def row(name: str, figures: Figures, kind: str) -> list[str]:
    return [name, *(spread(figures[f"accuracy-{kind}-{column}"]) for column in COLUMNS)]


def picture(checkpoint: Path, path: str) -> None:
    """Held-out digits, one a column: the image, its degraded copy, and what is made of each modality and of all."""
    gan, data = load(str(checkpoint)), SpokenDigits()
    rows = np.array([np.flatnonzero(data.targets("test") == digit)[0] for digit in range(10)])
    images, condition = data.examples("test", 360)
    condition = {name: values[rows] for name, values in condition.items()}
    lines = [images[rows], condition["image"]]
    for names in ([], *([name] for name in MODALITIES), MODALITIES):
        present = torch.tensor([name in names for name in MODALITIES]).expand(10, -1)
        lines.append(gan.sample(torch.arange(10), condition | {"present": present}))
    grid(to_uint8(torch.cat(lines)), columns=10).save(path)


def main() -> None:
    figures = measure("fusion", CONFIG, SEEDS)
    names = {"code": "fused code", "raw": "recordings side by side", "pooled": "their means and counts side by side"}
    print(table(["linear probe on", *COLUMNS], [row(name, figures, kind) for kind, name in names.items()]))
    for figure in ("recall-code-all", "f1-code-all", "recall-raw-all", "f1-raw-all"):
        print(f"{figure} {spread(figures[figure])}")
    for figure in ("fcd-digits-9895c19c", "fcd-digits-9895c19c-test"):
        print(f"{figure} {spread(figures[figure], 2)}")
    picture(FOLDER / "fusion" / "seed0" / "checkpoints" / "last.ckpt", ".assets/fusion.png")


if __name__ == "__main__":
    main()
