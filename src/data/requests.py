"""What `predict` asks of a generator: numbers of samples and their classes. No data set is read."""

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from src.data.order import sample_loader
from src.engine.batches import EVAL_BATCH


class Requests(LightningDataModule):
    """Samples to generate, with the facts of the data that the generator was trained on.

    Args:
        image_size: (H, W) of the images.
        channels: of the images.
        num_classes: 0 for an unconditional generator.
        class_names: names of the classes, which may be asked for as well as their numbers.
    """

    def __init__(
        self, image_size: tuple[int, int], channels: int, num_classes: int = 0, class_names: list[str] | None = None
    ):
        super().__init__()
        self.image_size, self.channels, self.num_classes = tuple(image_size), channels, num_classes
        self.class_names = class_names or [str(i) for i in range(num_classes)]
        self.numbers, self.batch_size = range(0), EVAL_BATCH
        self.classes: list[int] = []

    def ask(self, numbers: Sequence[int], classes: str | None, batch_size: int) -> None:
        """Sets which images are wanted, of which classes ("3,7" or names, which take turns), and how many at once.

        Raises:
            ValueError: no image, a class that does not exist, or classes of an unconditional generator.
        """
        if not numbers:
            raise ValueError("--num_images must be at least 1")
        if batch_size < 1:
            raise ValueError(f"--batch_size must be at least 1, got {batch_size}")
        if classes and not self.num_classes:
            raise ValueError(
                "--classes needs a class-conditional model; this one is unconditional: leave the option out"
            )
        self.numbers, self.batch_size = numbers, batch_size
        self.classes = [self.index(name.strip()) for name in classes.split(",")] if classes else []

    def index(self, name: str) -> int:
        if name in self.class_names:
            return self.class_names.index(name)
        if name.isdecimal() and int(name) < self.num_classes:
            return int(name)
        names = ", ".join(self.class_names[:20]) + (", ..." if self.num_classes > 20 else "")
        raise ValueError(f"no class {name!r}: there are {self.num_classes}, 0 to {self.num_classes - 1}, named {names}")

    def conditions(self, indices: Tensor) -> Tensor | None:
        if not self.num_classes:
            return None
        classes = torch.tensor(self.classes or range(self.num_classes))
        return classes[indices % len(classes)]

    def predict_dataloader(self) -> DataLoader:
        return sample_loader(
            self.numbers, self.conditions, self.batch_size, self.trainer.global_rank, self.trainer.world_size
        )
