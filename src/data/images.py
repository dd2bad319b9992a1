"""What every image source shares: its splits, what training and evaluation see of them, and the loaders."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.dataset import SMALL, ImageDataset, ignore_signals, measure, subset_of
from src.data.order import StepSampler, chunks, permutation, sample_loader
from src.data.sizes import height_width
from src.data.summary import Findings, amount, sentence
from src.engine import seeding
from src.engine.batches import EVAL_BATCH
from src.images.measurements import Mask, Measurement
from src.images.pixels import from_uint8


class ImageDataModule(LightningDataModule, ABC):
    """Images in memory or in a memory map, read in an order that depends on (seed, step) alone.

    A source calls `super().__init__`, then `describe`, and implements `load`.

    Args:
        batch_size: images of one discriminator update, over all processes and accumulated parts together.
        labels: false hides the labels of the source, so that the model is unconditional.
        flip: also use every image mirrored left to right; one epoch is then twice as long; none: `fit` decides.
        num_workers: worker processes of the training loader, per process.
        subset: only so many of the training images, drawn at random; all by default.
        subset_seed: another one draws others.
        without: numbers of classes that the training images lack.
        measurement: what is done to each real image before training sees it, once and for all: a function of the seed
            and its number. The images that figures compare with stay as they are.
        inpaint: fill in the pixels that `measurement` hides, and train on the result.

    Raises:
        ValueError: `inpaint` without a measurement that hides pixels.
    """

    splits: tuple[str, ...] = ("train", "test")
    sampler: Callable[..., StepSampler] = StepSampler

    def __init__(
        self,
        batch_size: int = 64,
        labels: bool = True,
        flip: bool | None = False,
        num_workers: int = 0,
        subset: int | None = None,
        subset_seed: int = 0,
        without: list[int] | None = None,
        measurement: Measurement | None = None,
        inpaint: Literal["harmonic", "biharmonic"] | None = None,
    ) -> None:
        super().__init__()
        if inpaint and not isinstance(measurement, Mask):
            raise ValueError(
                "data.inpaint fills in missing pixels: set data.measurement, to MissingPixels for instance"
            )
        self.measurement, self.inpaint = measurement, inpaint
        self.batch_size = batch_size
        self.labels = labels
        self.flip = flip
        self.num_workers = num_workers
        self.origin = (0, 0)  # a step, and the images read before it
        self.subset, self.subset_seed, self.without = subset, subset_seed, without
        self.found = Findings(type(self).__name__)
        self._splits: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        self._seen: dict[tuple[int, ...], np.ndarray] = {}
        self._digests: dict[str, str] = {}

    def describe(self, image_size: int | list[int] | tuple[int, int], channels: int, class_names: list[str]) -> None:
        """State the facts that networks are built from.

        Args:
            image_size: side of a square, or [height, width], in pixels.
            channels: 1, 3 or 4.
            class_names: one name a class, empty where the source has no labels.
        """
        self.image_size: tuple[int, int] = height_width(image_size)
        self.channels = channels
        self.class_names = class_names if self.labels else []
        self.num_classes = len(self.class_names)

    @abstractmethod
    def load(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Read one split: images uint8 (N, C, H, W), which may be a read-only memory map, and labels (N,) or None."""

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """One split, loaded on first use and checked.

        Args:
            name: one of `splits`.

        Raises:
            ValueError: there is no such split, it is empty, or a label lies outside the classes.
        """
        if name not in self._splits:
            if name not in self.splits:
                raise ValueError(f"{type(self).__name__} has no split {name!r}, only {', '.join(self.splits)}")
            images, labels = self.load(name)
            if name == "train" and (self.subset is not None or self.without):
                chosen = subset_of(len(images), labels, self.subset, self.subset_seed, self.without)
                self.found.left_out["by data.subset or data.without"] = len(images) - len(chosen)
                images, labels = images[chosen], None if labels is None else labels[chosen]
            if len(images) == 0:
                raise ValueError(f"the {name} split of {type(self).__name__} has no image")
            assert images.dtype == np.uint8 and images.shape[1:] == (self.channels, *self.image_size)
            if self.num_classes == 0:
                labels = None
            else:
                labels = labels.astype(np.int64)
                assert labels.shape == (len(images),)
                if labels.min() < 0 or labels.max() >= self.num_classes:
                    raise ValueError(
                        f"{type(self).__name__} has {name} labels from {labels.min()} to {labels.max()}, "
                        f"but {self.num_classes} classes need 0 to {self.num_classes - 1}"
                    )
            self._splits[name] = images, labels
        return self._splits[name]

    def setup(self, stage: str) -> None:
        """Load the images, and say what was found: every stage needs them, if only for the histogram of the classes."""
        for name in self.splits:
            self.split(name)
        rank_zero_info(sentence(self, trains=stage == "fit"))

    def amount(self, split: str) -> str:
        """What a split holds, in words."""
        return amount(self.num_images(split), "image")

    def class_sizes(self) -> list[int]:
        """Training images of each class."""
        labels = self.split("train")[1]
        return [] if labels is None else np.bincount(labels, minlength=self.num_classes).tolist()

    def num_images(self, split: str) -> int:
        """Number of images of a split, mirrored ones not counted."""
        return len(self.split(split)[0])

    def train_dataloader(self) -> DataLoader:
        """One item a training step: uint8 images (n, C, H, W) and labels (n,) or None.

        Raises:
            ValueError: the batch cannot be shared out evenly.
        """
        module = self.trainer.lightning_module
        parts = self.trainer.world_size * module.accumulate
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} holds no image: take at least {parts}")
        if self.batch_size % parts:
            below = self.batch_size // parts * parts
            nearest = f"{below} or {below + parts}" if below > 0 else str(parts)
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by {self.trainer.world_size} processes times "
                f"accumulate {module.accumulate}: take {nearest}"
            )
        dataset = self.training_set()
        if len(dataset) < self.batch_size:
            rank_zero_info(
                f"batch_size {self.batch_size} is more than the {amount(len(dataset), 'training example')}: a batch"
                " repeats some, and samples will be copies of them"
            )
        sampler = self.sampler(
            num_images=len(dataset),
            batch_size=self.batch_size,
            batches_per_step=module.batches_per_step,
            seed=module.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            current_step=lambda: self.trainer.global_step,
            origin=self.origin,
        )
        return DataLoader(
            dataset,
            sampler=sampler,
            worker_init_fn=ignore_signals,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # a loader draws a seed for its workers: keep it off the global stream
        )

    def training_set(self) -> Dataset:
        """What training reads: a list of indices -> (x, condition) of a whole batch."""
        return self.dataset("train", self.flip)

    def dataset(self, split: str, flip: bool = False) -> "ImageDataset":
        """A split as training sees it: measured, and filled in, where the options say so."""
        images, labels = self.split(split)
        seen = None
        if self.measurement:
            key = (self.trainer.lightning_module.seed, seeding.MEASUREMENTS, self.splits.index(split))
            seen = partial(measure, measurement=self.measurement, inpaint=self.inpaint, key=key)
        if self.inpaint or (seen and images.size <= SMALL):  # once, not again in every epoch and every validation
            if key not in self._seen:
                parts = [seen(np.array(images[i : i + 1]), [i]) for i in range(len(images))]
                self._seen[key] = np.concatenate(parts)
            images, seen = self._seen[key], None
        return ImageDataset(images, labels, flip, seen)

    def drawn(self, split: str, count: int) -> np.ndarray:
        """Positions, ascending, of at most so many images, always the same: the first of a folder are of one class."""
        return np.sort(permutation(self.num_images(split), seed=0, epoch=0)[:count].numpy())

    def examples(self, split: str, count: int) -> tuple[Tensor, Any]:
        """Some examples of a split, as the discriminator sees real ones: x [n, ...] in [-1, 1], and condition."""
        batch = self.dataset(split)[self.drawn(split, count).tolist()]
        return self.on_after_batch_transfer(batch, 0)

    def state_dict(self) -> dict[str, int]:
        """How many images have been read, and how: a run that goes on with other batches loses none."""
        step, read = self.trainer.global_step, self.batch_size * self.trainer.lightning_module.batches_per_step
        images = self.origin[1] + (step - self.origin[0]) * read
        return {"step": step, "images": images, "batch_size": self.batch_size, "processes": self.trainer.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the images that were read, and say so where the batches are others."""
        self.origin = state["step"], state["images"]
        here = {"batch_size": self.batch_size, "processes": self.trainer.world_size}
        changes = [f"{name} was {state[name]}, is {here[name]}" for name in here if state[name] != here[name]]
        if changes and self.trainer.training:
            rank_zero_info(f"going on is not exact, {'; '.join(changes)}: no image is left out, but the result differs")

    def val_dataloader(self) -> DataLoader:
        """Requests for `val_images` samples of the module: indices (b,) and their condition."""
        return self._requests("val_images")

    def test_dataloader(self) -> DataLoader:
        """Requests for `test_images` samples of the module: indices (b,) and their condition."""
        return self._requests("test_images")

    def _requests(self, name: str) -> DataLoader:
        num_images = getattr(self.trainer.lightning_module, name)
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return sample_loader(range(num_images), self.conditions, EVAL_BATCH, rank, world_size)

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        """Convert grey levels to [-1, 1] on the device, after a quarter of the bytes has travelled."""
        return (from_uint8(batch[0]), batch[1]) if batch[0].dtype == torch.uint8 else batch

    def conditions(self, indices: Tensor) -> Tensor | None:
        """Labels of generated samples, in the proportions of the training labels.

        Args:
            indices: numbers (b,) of the samples, from 0.

        Returns:
            Labels int64 (b,): the training labels in a fixed random order, repeated; None without classes.
        """
        if self.num_classes == 0:
            return None
        return self._shuffled_labels[indices % len(self._shuffled_labels)]

    def grid_conditions(self, indices: Tensor) -> Any:
        """Conditions of the samples of a grid: the classes in turn."""
        return indices % self.num_classes if self.num_classes else None

    @cached_property
    def _shuffled_labels(self) -> Tensor:
        labels = torch.from_numpy(self.split("train")[1])
        return labels[permutation(len(labels), seed=0, epoch=0)]

    def fingerprint(self, split: str) -> str:
        """SHA-256 of the pixels and labels of a split as the networks see them: whatever changes them changes it."""
        _, labels = self.split(split)
        return hashlib.sha256(self.digest(split).encode() + (b"" if labels is None else labels.tobytes())).hexdigest()

    def digest(self, split: str) -> str:
        """SHA-256 of the pixels of a split alone: which real images figures compare with."""
        if split not in self._digests:
            images, _ = self.split(split)
            digest = hashlib.sha256(repr(images.shape).encode())
            for chunk in chunks(len(images), 1000, 0, 1):
                digest.update(np.ascontiguousarray(images[chunk.start : chunk.stop]))
            self._digests[split] = digest.hexdigest()
        return self._digests[split]

    def real_batches(self, split: str, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
        """Every image of a split once over all processes, in order, never mirrored.

        Args:
            split: one of `splits`.
            rank: this process.
            world_size: number of processes; chunk c goes to process c mod world_size.

        Returns:
            uint8 (b, C, H, W) with b at most EVAL_BATCH.
        """
        images, _ = self.split(split)
        for chunk in chunks(len(images), EVAL_BATCH, rank, world_size):
            yield torch.from_numpy(np.array(images[chunk.start : chunk.stop]))
