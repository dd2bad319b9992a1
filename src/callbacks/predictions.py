"""Writes what `predict` generates."""

import io
import os
import zipfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src.callbacks.pictures import class_titles, grid, to_image

Format = Literal["png", "webp", "jpg", "npz", "zip"]
SHOWN = 100  # images in the grid
# Level 1 of PNG takes a third of the time of 6; WebP keeps every pixel; JPEG keeps the colour of each.
OPTIONS = {"png": {"compress_level": 1}, "webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}


class PredictionWriter(Callback):
    """Each sample as `images/<number>.png`, and the first hundred as `grid.png`, with the names of their classes.

    The grid lies beside the images, so that the folder of images is a data set. Threads encode while the generator goes
    on.

    Args:
        output: folder; new or empty.
        columns: images a row of the grid.
        format: of the images; "zip" puts PNG files into `images.zip`, and "npz" writes `images.npz`: `images` uint8
            [N, H, W, C], `numbers` [N] and, where there are classes, `labels` [N].

    Raises:
        ValueError: if the folder holds something already, or the format cannot hold these images, or several processes
            would write one file.
    """

    def __init__(self, output: str, columns: int | None = None, format: Format = "png"):
        self.output, self.columns, self.format = Path(output), columns, format
        self.place = self.output / (f"images.{format}" if format in ("npz", "zip") else "images")
        self.count = 0
        self.first: list[tuple[int, Tensor, int | None]] = []  # of the grid, each with its place in the whole
        self.waiting: deque[tuple[str, Future[bytes]]] = deque()
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []  # of an .npz

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        occupied = trainer.is_global_zero and self.output.exists() and any(self.output.iterdir())
        if trainer.strategy.broadcast(occupied):
            raise ValueError(f"{self.output} is not empty: choose another --output, or empty it")
        if self.format == "jpg" and trainer.datamodule.channels == 4:
            raise ValueError("--format jpg holds no transparency: take png or webp")
        one = self.place.suffix != ""
        if one and trainer.world_size > 1:
            raise ValueError(f"--format {self.format} is one file of one process: add --trainer.devices 1")
        (self.output if one else self.place).mkdir(parents=True, exist_ok=True)
        self.archive = zipfile.ZipFile(self.place, "w") if self.format == "zip" else None
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: tuple[Tensor, Tensor, Tensor | None],
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        images, numbers, labels = (None if part is None else part.cpu() for part in outputs)
        self.count += len(images)
        if len(self.first) < SHOWN:
            chunk = batch_idx * trainer.world_size + trainer.global_rank
            shown = [None] * len(images) if labels is None else labels.tolist()
            self.first += [(chunk, *pair) for pair in zip(images, shown, strict=True)]
        if self.format == "npz":
            held = images.permute(0, 2, 3, 1).contiguous().numpy()
            self.kept.append((held, numbers.numpy(), None if labels is None else labels.numpy()))
            return
        suffix = "png" if self.archive else self.format
        for number, pixels in zip(numbers.tolist(), images, strict=True):
            self.waiting.append((f"{number:06d}.{suffix}", self.pool.submit(encoded, pixels, suffix)))
        self.write(at_most=4 * len(images))

    def write(self, at_most: int) -> None:
        """Writes what is encoded, in order, until so many images wait."""
        while len(self.waiting) > at_most:
            name, file = self.waiting.popleft()
            if self.archive:
                self.archive.writestr(name, file.result())
            else:
                (self.place / name).write_bytes(file.result())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(at_most=0)
        self.pool.shutdown()
        if self.archive:
            self.archive.close()
        if self.format == "npz":
            images, numbers, labels = zip(*self.kept, strict=True)
            classes = {} if labels[0] is None else {"labels": np.concatenate(labels)}
            np.savez(self.place, images=np.concatenate(images), numbers=np.concatenate(numbers), **classes)
        gathered: list = [(self.count, self.first)]
        if trainer.world_size > 1:
            gathered = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (self.count, self.first))
        self.count = sum(count for count, _ in gathered)
        if trainer.is_global_zero:
            first = sorted((sample for _, part in gathered for sample in part), key=lambda sample: sample[0])[:SHOWN]
            _, images, labels = zip(*first, strict=True)
            titles = class_titles(labels, trainer.datamodule.class_names, self.columns)
            grid(torch.stack(images), self.columns, titles=titles).save(self.output / "grid.png")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if pool := getattr(self, "pool", None):
            pool.shutdown(cancel_futures=True)


def encoded(pixels: Tensor, suffix: str) -> bytes:
    """An image uint8 [C, H, W] as a file of this suffix."""
    file = io.BytesIO()
    to_image(pixels).save(file, {"jpg": "jpeg"}.get(suffix, suffix), **OPTIONS[suffix])
    return file.getvalue()
