"""Images that no disk holds: shards of litdata, here or in object storage, read in an exact order of our own."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from src.data.images import ImageDataModule
from src.data.order import StepSampler
from src.engine import seeding

PATIENCE = 30.0  # seconds after which a shard counts as missing
WRITE = "write them as src/data/README.md shows"


class Streaming(ImageDataModule):
    """Images in shards of litdata, which are fetched when they are due and removed after that.

    An item is a mapping: `image`, uint8 [C, H, W], all of one size; and `label`, a whole number, where there are
    classes. Shards come in random order, and the images of `mixed` shards at a time in random order: a function of the
    seed and the epoch, as everywhere, so a run that was killed goes on with the image that is due. Every process and
    every worker of a loader goes through all shards; those on one machine share what was fetched.

    Args:
        url: folder of the training shards, or `s3://...`, `gs://...` or what else litdata reads.
        test_url: the same of held-out images.
        mixed: shards whose images are mixed; three times as many stay on the disk.
        cache_dir: folder of what was fetched; may be deleted at any time between runs.

    Raises:
        ImportError: litdata is not installed.
        ValueError: there are no shards, or the items are no images.
    """

    def __init__(
        self, url: str, test_url: str | None = None, mixed: int = 8, cache_dir: str = ".cache/shards", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if mixed < 1:
            raise ValueError(f"data.mixed must be at least 1, got {mixed}")
        self.mixed = mixed
        urls = {"train": url} | ({"test": test_url} if test_url else {})
        self.splits = tuple(urls)
        self.found.source = url
        self.shards = {split: Shards(urls[split], cache_dir, kept=3 * mixed) for split in urls}
        self.labels_of = {split: shards.labels() if self.labels else None for split, shards in self.shards.items()}
        classes = self.labels_of["train"]
        names = [] if classes is None else [str(label) for label in range(classes.max() + 1)]
        self.describe(self.shards["train"].shape[2:], self.shards["train"].shape[1], names)

    def load(self, split: str) -> tuple[Any, np.ndarray | None]:
        """One split, whose images are read when they are asked for."""
        return self.shards[split], self.labels_of[split]

    @property
    def sampler(self) -> Any:
        """The order of training; images that an option has picked are in memory, and need none of their own."""
        images = self.split("train")[0]
        return partial(ShardSampler, images.sizes, self.mixed) if isinstance(images, Shards) else StepSampler

    def drawn(self, split: str, count: int) -> np.ndarray:
        """Positions, ascending, of at most so many images, always the same, of few shards."""
        images = self.split(split)[0]
        if not isinstance(images, Shards):
            return super().drawn(split, count)
        return np.sort(permutation_of_shards(images.sizes, self.mixed, 1, seed=0, epoch=0)[:count].numpy())


class Shards:
    """The images of a folder of shards, as an array that is read when a part of it is asked for.

    Args:
        url: see `Streaming`.
        cache_dir: see `Streaming`.
        kept: shards that stay in the cache; those used last.

    Attributes:
        shape: [N, C, H, W].
        size: their product.
        sizes: images of each shard.

    Raises:
        ImportError: litdata is not installed.
        ValueError: there are no shards, or the first item is no image.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, url: str, cache_dir: str, kept: int) -> None:
        self.url, self.cache_dir, self.kept = url, str(Path(cache_dir).absolute()), kept
        self._opened: tuple[int, Any] | None = None
        intervals = self.dataset.cache.get_chunk_intervals()
        self.sizes = [interval.chunk_end - interval.chunk_start for interval in intervals]
        self.shape = (sum(self.sizes), *self.image(0).shape)
        self.size = math.prod(self.shape)

    @property
    def dataset(self) -> Any:
        """That of litdata, opened by each process: its threads do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                from litdata import StreamingDataset
            except ModuleNotFoundError as error:
                if error.name != "litdata":
                    raise
                raise ImportError("--data Streaming needs litdata (.venv/bin/pip install litdata)") from error
            try:
                dataset = StreamingDataset(self.url, cache_dir=self.cache_dir, batch_decode=0)
                patiently(lambda: dataset[0])  # opens it
            except (ValueError, FileNotFoundError, RuntimeError) as error:
                raise ValueError(f"there are no shards of litdata in {self.url}: {WRITE} ({error})") from error
            self._opened = os.getpid(), dataset
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Images uint8 [n, C, H, W] of a slice, or of a list of indices; shard by shard."""
        rows = np.arange(len(self))[rows]
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place in rows.argsort():
            images[place] = self.image(int(rows[place]))
        self.forget(rows)
        return images

    def image(self, row: int) -> np.ndarray:
        item = self.item(row)
        image = np.asarray(item.get("image") if isinstance(item, dict) else None)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape != getattr(self, "shape", (0, *image.shape))[1:]:
            raise ValueError(
                f"item {row} of {self.url} has no `image` of uint8 [channels, height, width] like all others: {WRITE}"
            )
        return image

    def item(self, row: int) -> Any:
        return patiently(lambda: self.dataset[row])

    def forget(self, rows: np.ndarray) -> None:
        """Removes shards that were fetched, but for those used last; never those of a folder of the user."""
        folder = Path(self.dataset.cache.cache_dir)
        if not folder.resolve().is_relative_to(Path(self.cache_dir).resolve()):
            return
        names = [shard["filename"] for shard in json.loads((folder / "index.json").read_text())["chunks"]]
        with suppress(FileNotFoundError):  # another process removes some, too
            for shard in np.unique(np.searchsorted(np.cumsum(self.sizes), rows, side="right")):
                os.utime(folder / names[shard])
            for path in sorted(folder.glob("*.bin"), key=os.path.getmtime)[: -self.kept]:
                path.unlink()

    def labels(self) -> np.ndarray | None:
        """Labels int64 [N], which are read once, from all shards, and kept; None where the items have none."""
        if "label" not in self.item(0):
            return None
        index = (Path(self.dataset.cache.cache_dir) / "index.json").read_bytes()
        path = Path(self.cache_dir) / f"labels-{hashlib.sha256(self.url.encode() + index).hexdigest()[:16]}.npy"
        if not path.exists():
            rank_zero_info(f"{self.url}: reading all shards once, for their labels; they are kept in {path}")
            labels = []
            for rows in np.split(np.arange(len(self)), np.cumsum(self.sizes)[:-1]):
                labels += [int(self.item(int(row))["label"]) for row in rows]
                self.forget(rows)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary := path.with_suffix(f".{os.getpid()}"), "wb") as file:
                np.save(file, np.array(labels, np.int64))
            os.replace(temporary, path)
        return np.load(path)


def patiently(read: Callable[[], Any]) -> Any:
    """What is read of a shard. Another process may be fetching it, or have just removed it: it is asked for again."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            return read()
        time.sleep(0.01)
    return read()


class ShardSampler(StepSampler):
    """`StepSampler` in an order that stays within few shards.

    Args:
        sizes: images of each shard.
        mixed: shards whose images are mixed.
        options: of `StepSampler`.
    """

    def __init__(self, sizes: list[int], mixed: int, **options: Any) -> None:
        self.sizes, self.mixed = sizes, mixed
        super().__init__(**options)

    def order(self, seed: int, epoch: int) -> Tensor:
        return permutation_of_shards(self.sizes, self.mixed, self.num_images // sum(self.sizes), seed, epoch)


def permutation_of_shards(sizes: list[int], mixed: int, copies: int, seed: int, epoch: int) -> Tensor:
    """Random order of the images of shards, of so many shards at a time; a pure function of its arguments.

    Args:
        sizes: images of each shard.
        mixed: shards whose images are mixed.
        copies: of each image; number c of image i is c * N + i.
        seed: of the run.
        epoch: from 0.
    """
    generator = torch.Generator().manual_seed(seeding.mix(seed, seeding.ORDER, epoch))
    shards = torch.arange(sum(sizes)).split(sizes)
    parts = []
    for group in torch.randperm(len(sizes), generator=generator).split(mixed):
        images = torch.cat([shards[shard] for shard in group])
        images = torch.cat([images + copy * sum(sizes) for copy in range(copies)])
        parts.append(images[torch.randperm(len(images), generator=generator)])
    return torch.cat(parts)
