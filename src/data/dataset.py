"""What training reads: whole batches of a split, mirrored and measured as the options say."""

import mmap
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.data.inpainting import inpainted
from src.data.order import permutation
from src.engine import seeding
from src.images.measurements import Measurement
from src.images.pixels import from_uint8

SMALL = 2**26  # values of a split whose measurements are kept in memory


class ImageDataset(Dataset):
    """Whole batches by a list of indices; index i + N is image i mirrored.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,) or None.
        flip: double the set by its mirror images.
        seen: (images, their numbers) -> what is seen of them, float32 (n, C, H, W), before they are mirrored.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        flip: bool,
        seen: Callable[[np.ndarray, list[int]], np.ndarray] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.flip = flip
        self.seen = seen

    def __len__(self) -> int:
        return len(self.images) * (2 if self.flip else 1)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor | None]:
        mirrored, rows = np.divmod(np.asarray(indices), len(self.images))
        mirrored = mirrored.astype(bool)
        images = gathered(self.images, rows)
        if self.seen:
            images = self.seen(images, rows.tolist())
        images[mirrored] = images[mirrored][..., ::-1]
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return torch.from_numpy(images), labels

    def __getstate__(self) -> dict:
        # A worker that is not forked gets this object pickled, and a memory map would be pickled as its whole content.
        return self.__dict__ | {"images": Path(self.images.filename) if is_mapped(self.images) else self.images}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        if isinstance(self.images, Path):
            self.images = np.load(self.images, mmap_mode="r")


def is_mapped(images: Any) -> bool:
    """Whether images are the memory map of a whole file: a part of one is none, nor are shards that are streamed."""
    return isinstance(getattr(images, "base", None), mmap.mmap)


def gathered(images: Any, rows: np.ndarray) -> np.ndarray:
    """Copies of some images; a disk is asked for all of them at once, and reads them side by side instead of in turn.

    Args:
        images: (N, ...), in memory, a memory map of a whole file, or read when they are asked for.
        rows: their numbers (n,).
    """
    if is_mapped(images) and hasattr(mmap, "MADV_WILLNEED"):  # not on Windows
        size = images.strides[0]
        for start in (images.offset + rows * size).tolist():
            page = start - start % mmap.PAGESIZE
            images.base.madvise(mmap.MADV_WILLNEED, page, start + size - page)
    return np.asarray(images[rows])


def measure(
    images: np.ndarray, rows: list[int], measurement: Measurement, inpaint: str | None, key: tuple[int, ...]
) -> np.ndarray:
    """The measurement of each image, a function of `(key, its row)`.

    Args:
        images: uint8 (n, C, H, W).
        rows: their numbers (n,).
        measurement: what is done to them.
        inpaint: how the pixels that it hides are filled in, or None.
        key: seed, purpose and split.

    Returns:
        float32 (n, C, H, W).
    """
    streams = [torch.Generator().manual_seed(seeding.mix(*key, row)) for row in rows]
    pixels = from_uint8(torch.from_numpy(images)).split(1)
    measured = [measurement(*pair) for pair in zip(pixels, streams, strict=True)]
    if inpaint:
        return np.stack([inpainted(y[0].numpy(), measurement.seen(y)[0, 0].numpy(), inpaint) for y in measured])
    return torch.cat(measured).numpy()


def subset_of(
    length: int, labels: np.ndarray | None, subset: int | None, subset_seed: int, without: list[int] | None
) -> np.ndarray:
    """Positions, in order, of the training images that `subset` and `without` leave; arguments as of `ImageDataModule`.

    Raises:
        ValueError: more are wanted than there are, or there are no labels to go by.
    """
    if without and labels is None:
        raise ValueError("data.without needs labels, and the images have none")
    if without and (unknown := set(without) - set(labels.tolist())):
        raise ValueError(f"no image has a class of data.without {sorted(unknown)}: the last one is {labels.max()}")
    left = np.flatnonzero(~np.isin(labels, without)) if without else np.arange(length)
    subset = len(left) if subset is None else subset
    if not 1 <= subset <= len(left):
        raise ValueError(f"data.subset must be 1 to {len(left)}, the number of training images, got {subset}")
    return np.sort(left[permutation(len(left), subset_seed, epoch=0)[:subset].numpy()])


def ignore_signals(worker: int) -> None:
    """Leaves the answer to the process that trains: clusters and Ctrl-C signal all, and a dead worker ends the step."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
