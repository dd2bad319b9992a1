"""What training reads of bags: whole batches, padded."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Bags(NamedTuple):
    """The bags of one split, their instances one after another."""

    instances: np.ndarray  # [I, C, H, W], uint8, or float32 in [-1, 1]
    sizes: np.ndarray  # int64 [M], the sum is I
    labels: np.ndarray  # int64 [M]; -1 where nobody knows it
    keys: np.ndarray | None  # bool [I]: instances that make their bag what it is; no network sees them


class BagDataset(Dataset):
    """Whole batches of padded bags by a list of places in its order; arguments as of `BagDataModule`.

    Every bag is there once; where most have no label, those that have one are repeated until they are about as many.
    """

    def __init__(self, bags: Bags, bag_size: int) -> None:
        self.bags = bags
        self.bag_size = bag_size
        labelled, unlabelled = np.flatnonzero(bags.labels >= 0), np.flatnonzero(bags.labels < 0)
        copies = max(1, round(len(unlabelled) / max(1, len(labelled))))
        self.order = np.concatenate([np.tile(labelled, copies), unlabelled])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.bags_of(self.order[np.asarray(indices)])

    def bags_of(self, indices: np.ndarray) -> tuple[Tensor, dict[str, Tensor]]:
        """The bags of these numbers, [B]."""
        rows, mask = padded(self.bags.sizes, indices, self.bag_size)
        x = self.bags.instances[rows]
        x[~mask] = 0
        label = torch.from_numpy(self.bags.labels[indices])
        return torch.from_numpy(x), {"label": label, "mask": torch.from_numpy(mask)}


def padded(sizes: np.ndarray, bags: np.ndarray, bag_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [B, bag_size] of the instances of some bags, 0 where there is none, and the mask of those there are."""
    places = np.arange(bag_size)
    mask = places < sizes[bags, None]
    starts = np.cumsum(sizes) - sizes
    return np.where(mask, starts[bags, None] + places, 0), mask
