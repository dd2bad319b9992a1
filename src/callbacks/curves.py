"""Both players' losses over time, as a picture."""

import csv
import math
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image, ImageDraw

SIZE, MARGIN = (640, 320), 40  # pixels
COLOURS = {"loss/discriminator": (200, 30, 30), "loss/generator": (30, 60, 200)}


class LossCurves(Callback):
    """Writes `losses.png` when training ends: what `metrics.csv` says of the two losses.

    Neither has to fall: level lines of a discriminator that is neither sure of itself nor at a loss are a good sign.
    """

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir) / "metrics.csv"
        if path.is_file():
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
            curves = {name: [(int(r["step"]), float(r[name])) for r in rows if finite(r.get(name))] for name in COLOURS}
            if any(curves.values()):
                plot(curves).save(path.with_name("losses.png"))


def finite(number: str | None) -> bool:
    return bool(number) and math.isfinite(float(number))


def plot(curves: dict[str, list[tuple[int, float]]]) -> Image.Image:
    """Lines in common axes, the numbers at their ends.

    Args:
        curves: (step, value) points of each of `COLOURS`.
    """
    points = [point for curve in curves.values() for point in curve]
    steps, values = zip(*points, strict=True)
    (left, right), (low, high) = (min(steps), max(steps)), (min(values), max(values))
    width, height = (side - 2 * MARGIN for side in SIZE)
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((MARGIN, MARGIN, MARGIN + width, MARGIN + height), outline="grey")
    draw.text((2, MARGIN), f"{high:.3g}", "black")
    draw.text((2, MARGIN + height - 10), f"{low:.3g}", "black")
    draw.text((MARGIN, SIZE[1] - 30), f"step {left}", "black")
    draw.text((SIZE[0] - MARGIN - 30, SIZE[1] - 30), str(right), "black")
    for i, (name, curve) in enumerate(curves.items()):
        draw.text((MARGIN + 160 * i, 20), name, COLOURS[name])
        places = [
            (
                MARGIN + width * (step - left) / max(right - left, 1),
                MARGIN + height * (1 - (value - low) / ((high - low) or 1)),
            )
            for step, value in curve
        ]
        draw.line(places, COLOURS[name])
    return picture
