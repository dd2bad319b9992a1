"""Batches from elsewhere: of any `DataLoader` or `LightningDataModule` that is none of ours."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from src.engine.batches import pieces
from src.engine.descriptions import Described
from src.images.pixels import from_uint8

ROUNDING = 1e-3  # by which images may leave [-1, 1]


class Shared:
    """A loader of which a step takes several batches: Lightning fetches one, and the step asks for the others.

    An epoch is one pass over the loader, and ends before a step that it has too few batches for.

    Args:
        loader: any iterable of batches.
        batches_per_step: how many a step takes.
    """

    def __init__(self, loader: Any, batches_per_step: int):
        self.loader, self.batches_per_step = loader, batches_per_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # its sampler and its state, which Lightning asks for

    def __len__(self) -> int:
        return max(1, len(self.loader) // self.batches_per_step)

    def __iter__(self) -> Iterator[Any]:
        self.batches = iter(self.loader)
        try:
            return islice(self.batches, len(self))
        except TypeError:  # of a stream
            return self.batches

    def take(self) -> Any:
        """The next batch; where the pass ends in the middle of a step, the first one of another."""
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        return batch


class Nowhere(Dataset):
    """The training set of a loader from elsewhere: there is none at hand."""

    def __len__(self) -> int:
        raise ValueError("this generator is fitted to all images at once: give a data module of src.data, not a loader")

    __getitem__ = __len__


class Loading(Described):
    """The part of a module that takes batches from loaders."""

    @property
    def from_elsewhere(self) -> bool:
        """Whether the batches are those of a loader that knows nothing of steps."""
        return not hasattr(self.trainer.datamodule, "training_set")

    def on_device(self, batch: Any) -> Any:
        """A batch that was taken from a loader, after the hooks of transfer."""
        return self.trainer.strategy.batch_to_device(self._on_before_batch_transfer(batch))

    def check_elsewhere(self, stage: str) -> None:
        """Refuses what needs more than batches, and says what is left out; lets a step take several batches.

        Raises:
            ValueError: with what needs a data module of this project.
        """
        needing = [] if stage == "fit" else [f"`{self.trainer.state.fn.value}`"]
        needing += [type(callback).__name__ for callback in self.trainer.callbacks if hasattr(callback, "needs_data")]
        if needing:
            without = ", or leave it out of the callbacks" if stage == "fit" else ""
            raise ValueError(
                f"{needing[0]} needs a data module of src.data, and not a loader from elsewhere: give one{without}"
            )
        rank_zero_info("a loader from elsewhere: it trains, and no figures are computed, nor its validation looked at")
        if self.batches_per_step > 1:

            def process(loader: Any) -> Any:
                return Shared(loader, self.batches_per_step) if self.trainer.training else loader

            self.trainer.strategy.process_dataloader = process  # where Lightning lets loaders be wrapped

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.from_elsewhere and isinstance(self.trainer.train_dataloader, (list, tuple, dict)):
            raise ValueError("the training has several loaders, or a list of batches: give one loader")
        if self.from_elsewhere and self.global_step:
            rank_zero_info(f"going on from step {self.global_step}: Lightning begins the loader from elsewhere anew")

    def warmup_batches(self) -> Iterator[Any]:
        """A batch after another without end, of a pass of its own: the position of the first step stays."""
        while True:
            if self.from_elsewhere:
                loader = self.trainer.train_dataloader
                yield from (self.accept(self.on_device(batch)) for batch in getattr(loader, "loader", loader))
            else:
                for loaded in self.trainer.datamodule.train_dataloader():
                    yield from pieces(self.on_device(loaded), self.batches_per_step)

    def batches(self, batch: Any) -> list[Any]:
        """The batches of one step: our loaders give them all at once, of others each update takes one of its own."""
        if not self.from_elsewhere:
            return pieces(batch, self.batches_per_step)
        more = [self.on_device(self.trainer.train_dataloader.take()) for _ in range(self.batches_per_step - 1)]
        return [self.accept(each, says=each is batch) for each in (batch, *more)]

    def accept(self, batch: Any, says: bool = True) -> tuple[Tensor, Any]:
        """A batch from elsewhere, checked; on a GPU its values are looked at in the first step and where curves are."""
        first = self.images_seen == 0
        look = first or self.logs_now or self.device.type == "cpu"
        facts = (self.generator.output_shape, self.generator.num_classes, self.accumulate)
        return accepted(batch, *facts, look, first and says)


def accepted(
    batch: Any, shape: tuple[int, ...], num_classes: int, parts: int, look: bool, first: bool
) -> tuple[Tensor, Any]:
    """A batch from elsewhere as the step takes it: images, and a condition or None.

    Args:
        batch: images [B, *shape], uint8 or floats in [-1, 1]; or a pair of these and labels [B], or a mapping.
        shape: of what the generator makes.
        num_classes: that it knows, 0: unconditional.
        parts: into which the batch will be cut.
        look: whether to look at the values, too, for which a GPU has to be waited for.
        first: whether to say what is made of it.

    Raises:
        ValueError: it is none.
    """
    pair = isinstance(batch, (tuple, list))
    x, labels = (*batch, None)[:2] if pair and len(batch) in (1, 2) else (batch, None)
    if not isinstance(x, Tensor):
        told = f"{type(batch).__name__} of {len(batch)}" if pair else type(batch).__name__
        raise ValueError(f"a batch of the loader is a {told}: give images, or (images, labels)")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"images of the loader are {x.dtype}: give torch.uint8, or floats in [-1, 1]")
    if x.shape[1:] != shape:
        raise ValueError(f"images of the loader are {list(x.shape[1:])}, and the networks are for {list(shape)}")
    if len(x) % parts:
        raise ValueError(f"{len(x)} images cannot be cut into {parts} equal parts (accumulate): say drop_last=True")
    if x.is_floating_point():
        low, high = x.aminmax() if look else (0.0, 0.0)
        if not (low >= -1 - ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(f"images of the loader go from {low:.4g} to {high:.4g}: give torch.uint8, or [-1, 1]")
        if first and low >= 0:
            rank_zero_info(f"images from {low:.4g} to {high:.4g}: if 0 is black, give 2 * x - 1, since here it is grey")
    x = from_uint8(x) if x.dtype == torch.uint8 else x.float()
    if isinstance(labels, dict):
        return x, labels
    if not num_classes:
        if first and labels is not None:
            rank_zero_info("the labels of the loader are not used: this generator is unconditional")
        return x, None
    if not isinstance(labels, Tensor) or labels.shape != (len(x),) or labels.is_floating_point():
        raise ValueError(f"the networks have {num_classes} classes: give (images, labels), these whole numbers [B]")
    if look and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels of the loader go from {labels.min()} to {labels.max()}: there are {num_classes} classes"
        )
    return x, labels.long()
