"""Writes what `predict` generates."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src.callbacks.pictures import class_titles, grid, to_image


class PredictionWriter(Callback):
    """Each sample as `images/<number>.png`, and the first hundred as `grid.png`, with the names of their classes.

    The grid lies beside the images, so that the folder of images is a data set.

    Args:
        output: folder; new or empty.
        columns: images a row of the grid.

    Raises:
        ValueError: if the folder holds something already.
    """

    def __init__(self, output: str, columns: int | None = None):
        self.output = Path(output)
        self.columns = columns
        self.first: list[tuple[int, Tensor, int | None]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        occupied = trainer.is_global_zero and self.output.exists() and any(self.output.iterdir())
        if trainer.strategy.broadcast(occupied):
            raise ValueError(f"{self.output} is not empty: choose another --output, or empty it")
        (self.output / "images").mkdir(parents=True, exist_ok=True)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: tuple[Tensor, Tensor, Tensor | None], *args: object
    ) -> None:
        images, numbers, labels = outputs
        labels = [None] * len(images) if labels is None else labels.tolist()
        for number, pixels, label in zip(numbers.tolist(), images.cpu(), labels, strict=True):
            to_image(pixels).save(self.output / "images" / f"{number:06d}.png")
            if number < 100:
                self.first.append((number, pixels, label))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gathered: list = [self.first]
        if trainer.world_size > 1:
            gathered = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.first)
        if trainer.is_global_zero:
            first = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
            _, images, labels = zip(*first, strict=True)
            titles = class_titles(labels, trainer.datamodule.class_names, self.columns)
            grid(torch.stack(images), self.columns, titles=titles).save(self.output / "grid.png")
