"""Bags: sets of instances that share one label, as in multiple-instance learning."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.data.bag_dataset import BagDataset, Bags, padded
from src.data.images import ImageDataModule
from src.data.order import permutation
from src.data.summary import amount
from src.data.tables import rows_of
from src.engine import seeding
from src.images.pixels import from_uint8, to_uint8


class BagDataModule(ImageDataModule):
    """Batches of bags: x [B, N, C, H, W] and {"label": [B], "mask": [B, N]}, the mask true where an instance is.

    A bag whose label nobody knows has the label -1. To whoever asks for images these are the instances of the other
    bags, each with the label of its bag. A subclass calls `super().__init__`, then `describe`, and implements `read`.

    Args:
        bag_size: N, to which every bag is padded: no bag may hold more instances.
        batch_size: bags of one discriminator update, over all processes and accumulated parts together.
        num_workers: worker processes of the training loader, per process.
    """

    def __init__(self, bag_size: int, batch_size: int = 16, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers=num_workers)
        self.bag_size = bag_size
        self._bags: dict[str, Bags] = {}

    @abstractmethod
    def read(self, split: str) -> Bags:
        """The bags of one split."""

    def bags(self, split: str) -> Bags:
        """The bags of one split, read once.

        Raises:
            ValueError: there is no such split, or a bag is larger than `bag_size`.
        """
        if split not in self._bags:
            if split not in self.splits:
                raise ValueError(f"{type(self).__name__} has no {split} bags, only {', '.join(self.splits)}")
            bags = self.read(split)
            if bags.sizes.max() > self.bag_size:
                raise ValueError(f"a {split} bag has {bags.sizes.max()} instances: set --data.bag_size to that or more")
            self._bags[split] = bags
        return self._bags[split]

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        instances, sizes, labels, _ = self.bags(split)
        labels = labels.repeat(sizes)
        instances, labels = instances[labels >= 0], labels[labels >= 0]
        if instances.dtype != np.uint8:
            instances = to_uint8(torch.from_numpy(instances)).numpy()
        return instances, labels

    def amount(self, split: str) -> str:
        bags = self.bags(split)
        without = int((bags.labels < 0).sum())
        unlabelled = f", {without:,} of them without a label" if without else ""
        return f"{amount(len(bags.sizes), 'bag')} of {amount(len(bags.instances), 'instance')}{unlabelled}"

    def class_sizes(self) -> list[int]:
        labels = self.bags("train").labels
        return np.bincount(labels[labels >= 0], minlength=self.num_classes).tolist()

    def training_set(self) -> Dataset:
        return BagDataset(self.bags("train"), self.bag_size)

    def examples(self, split: str, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        bags = self.bags(split)
        x, condition = BagDataset(bags, self.bag_size).bags_of(np.arange(min(count, len(bags.sizes))))
        return (from_uint8(x) if x.dtype == torch.uint8 else x), condition

    def keys(self, split: str) -> Tensor | None:
        """Which instances of each bag are the ones that its class rests on, bool [M, N]; None where nobody knows."""
        bags = self.bags(split)
        if bags.keys is None:
            return None
        rows, mask = padded(bags.sizes, np.arange(len(bags.sizes)), self.bag_size)
        return torch.from_numpy(bags.keys[rows] & mask)

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """Labels and sizes of generated bags: those of the training bags in a fixed random order, repeated."""
        rows = self._order[indices % len(self._order)].numpy()
        bags = self.bags("train")
        _, mask = padded(bags.sizes, rows, self.bag_size)
        return {"label": torch.from_numpy(bags.labels[rows]), "mask": torch.from_numpy(mask)}

    @cached_property
    def _order(self) -> Tensor:
        labelled = torch.from_numpy(np.flatnonzero(self.bags("train").labels >= 0))
        return labelled[permutation(len(labelled), seed=0, epoch=0)]


class ImageBags(BagDataModule):
    """Bags out of the images of any labelled source, made as by Ilse et al., arXiv:1802.04712, Section 4.2.

    A bag of class 0 holds none of the target classes; one of class k > 0 holds images of the k-th target class and of
    no other. The bag classes take turns, so they are balanced. Bag i is a function of (seed, split, i) alone: of two
    data sets that differ in `num_bags`, the smaller is the beginning of the larger. Held-out bags hold test images.

    Args:
        source: labelled images: `Digits`, `ImageFolder` with one sub-folder a class, ...
        targets: names of the target classes, one for each positive bag class.
        num_bags: training bags with a label.
        num_unlabelled: further training bags, without their labels.
        num_test_bags: held-out bags, where the source has test images.
        mean_size: of a bag: instances are N(mean_size, size_deviation^2), rounded, from 1 to `bag_size`.
        size_deviation: standard deviation of that number.
        witness_rate: every positive bag holds one target for certain; each other instance is one so often, 0 to 1.
        bag_size: to which bags are padded; the generator needs the same.
        seed: of the bags.
        kwargs: `batch_size` (bags) and `num_workers`, see `BagDataModule`.

    Raises:
        ValueError: the source has no labels, a target is not one of its classes, or all of them are targets.
    """

    def __init__(
        self,
        source: ImageDataModule,
        targets: list[str],
        num_bags: int = 100,
        num_unlabelled: int = 0,
        num_test_bags: int = 500,
        mean_size: float = 10.0,
        size_deviation: float = 2.0,
        witness_rate: float = 0.1,
        bag_size: int = 16,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(bag_size, **kwargs)
        unknown = [name for name in targets if name not in source.class_names]
        if unknown or not targets or len(set(targets)) >= len(source.class_names):
            names = ", ".join(source.class_names[:20]) or "none, it has no labels"
            raise ValueError(f"--data.targets {targets} must be some, not all, of the classes of the source: {names}")
        if min(num_bags, num_test_bags, bag_size) < 1 or num_unlabelled < 0:
            raise ValueError("num_bags, num_test_bags and bag_size must be at least 1, num_unlabelled at least 0")
        if source.flip or source.measurement:
            raise ValueError("bags take the images of their source as they are: leave out its flip and its measurement")
        self.source = source
        self.found = source.found
        self.splits = source.splits
        self.targets = [source.class_names.index(name) for name in targets]
        self.num_bags = {"train": num_bags, "test": num_test_bags}
        self.num_unlabelled = {"train": num_unlabelled, "test": 0}
        self.sizes = (mean_size, size_deviation)
        self.witness_rate = witness_rate
        self.seed = seed
        self.describe(source.image_size, source.channels, ["none", *targets])

    def read(self, split: str) -> Bags:
        images, labels = self.source.split(split)
        pools = [np.flatnonzero(labels == target) for target in self.targets]
        others = np.flatnonzero(~np.isin(labels, self.targets))
        for name, pool in zip([*self.class_names[1:], "no target"], [*pools, others], strict=True):
            if len(pool) == 0:
                raise ValueError(f"the {split} images hold none of class {name}: its bags cannot be made")
        classes = np.arange(self.num_bags[split] + self.num_unlabelled[split]) % self.num_classes
        bags = [self.draw(split, i, pools[c - 1] if c else None, others) for i, c in enumerate(classes)]
        rows = np.concatenate(bags)
        classes[self.num_bags[split] :] = -1
        return Bags(images[rows], np.array([len(bag) for bag in bags]), classes, np.isin(labels[rows], self.targets))

    def draw(self, split: str, index: int, pool: np.ndarray | None, others: np.ndarray) -> np.ndarray:
        """Positions in the source of the instances of one bag, with replacement."""
        key = seeding.mix(self.seed, seeding.BAGS, self.splits.index(split), index)
        random = torch.Generator().manual_seed(key)
        size = int(torch.normal(*self.sizes, (1,), generator=random).round().clamp(1, self.bag_size))
        rows = others[torch.randint(len(others), (size,), generator=random).numpy()]
        if pool is not None:
            witness = torch.rand(size, generator=random) < self.witness_rate
            witness[0] = True
            rows = np.where(witness, pool[torch.randint(len(pool), (size,), generator=random).numpy()], rows)
        return rows[torch.randperm(size, generator=random).numpy()]


class TableBags(BagDataModule):
    """Bags of feature vectors from CSV files with a header, a line an instance; instances are "images" [1, 1, d].

    Each column is mapped linearly from its training range to [-1, 1], beyond which held-out values are cut. The
    networks see floats; only what asks for images (feature metrics, pictures) gets 256 levels.

    Args:
        path: training instances.
        test_path: held-out instances; their labels must occur in training.
        bag: column that names the bag of an instance.
        label: column of the class of the bag, the same in all its lines; empty where nobody knows it, in training.
        key: column that is 1 for the instances that the class rests on, for the scores alone; or none.
        bag_size: to which bags are padded; the generator needs the same.
        kwargs: `batch_size` (bags) and `num_workers`, see `BagDataModule`.

    Raises:
        ValueError: a column is missing, a value is not a number, or a bag has two labels, or a held-out one none.
    """

    def __init__(
        self,
        path: str,
        test_path: str | None = None,
        bag: str = "bag",
        label: str = "label",
        key: str | None = None,
        bag_size: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(bag_size, **kwargs)
        self.splits = ("train", "test") if test_path else ("train",)
        self.columns = (bag, label, key)
        self.features: list[str] = []
        self.found.source = path
        paths = {"train": path, "test": test_path}
        self.tables = {split: self.read_table(paths[split]) for split in self.splits}
        values, _, labels, _ = self.tables["train"]
        self.low, self.high = values.min(0), values.max(0)
        self.describe([1, values.shape[1]], channels=1, class_names=sorted({*labels} - {""}))

    def read_table(self, path: str) -> tuple[np.ndarray, list[str], list[str], np.ndarray | None]:
        bag, label, key = self.columns
        lines = rows_of(path)
        names = list(lines[0]) if lines else []
        missing = [name for name in (bag, label, key) if name and name not in names]
        features = self.features or [name for name in names if name not in self.columns]
        missing += [name for name in features if name not in names]
        if missing or not features:
            raise ValueError(f"{path} needs a header with {', '.join(missing) or 'features'}; it has {names}")
        self.features = features  # of the training table: another one may have them in another order
        try:
            values = np.array([[float(line[name]) for name in features] for line in lines])
            keys = np.array([float(line[key]) > 0 for line in lines]) if key else None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds a value that is no number: {error}") from error
        if not np.isfinite(values).all():
            raise ValueError(f"{path} holds values that are not finite: fill them in, or leave the lines out")
        return values, [line[bag] for line in lines], [line[label] for line in lines], keys

    def read(self, split: str) -> Bags:
        values, bags, labels, keys = self.tables[split]
        of_bag: dict[str, str] = {}
        for name, label in zip(bags, labels, strict=True):
            if of_bag.setdefault(name, label) != label:
                raise ValueError(f"bag {name} has the labels {of_bag[name]} and {label}: a bag has one")
            if label == "" and split != "train":
                raise ValueError(f"{split} bag {name} has no label: only training bags may lack theirs")
            if label and label not in self.class_names:
                raise ValueError(f"label {label} of {split} bag {name} does not occur in training")
        number = {name: i for i, name in enumerate(of_bag)}
        numbers = np.array([number[name] for name in bags])
        order = numbers.argsort(kind="stable")
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        scaled = (2 * (values[order] - self.low) / span - 1).clip(-1, 1).astype(np.float32)
        classes = np.array([self.class_names.index(label) if label else -1 for label in of_bag.values()])
        return Bags(scaled[:, None, None], np.bincount(numbers), classes, None if keys is None else keys[order])
