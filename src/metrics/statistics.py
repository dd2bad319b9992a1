"""Features of sets of images: collected over the processes, summed in float64."""

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from src.metrics.features import Extractor

GROUPS = 10  # of the jackknife
KEEP = 50_000  # images whose own features are held; of the others only sums are


class Features:
    """Features of a set of images, in the order of the images, on the CPU.

    Args:
        values: float32 [n, d].
        logits: float32 [n, K] of the extractor's own classes, or None.
        labels: int64 [n], or None.
        indices: int64 [n], the numbers of the images, ascending; 0, 1, 2, ... by default.
        rest: float64 [GROUPS, d + 1, d + 1], `sums` of the other images of the set, whose own features are not held.
    """

    def __init__(
        self,
        values: Tensor,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        indices: Tensor | None = None,
        rest: Tensor | None = None,
    ):
        self.values, self.logits, self.labels = values, logits, labels
        self.indices = torch.arange(len(values)) if indices is None else indices
        self.rest = rest
        self.assigned: Tensor | None = None  # the groups of a set that these are some of
        self.whole: tuple[Features, int] | None = None  # of which this is all but a group
        self.drawn: dict[int, Features] = {}
        self.memory: dict[Any, Any] = {}  # what metrics found out about these images

    def __len__(self) -> int:
        return len(self.values)

    @property
    def count(self) -> int:
        """Images in the mean and the covariance."""
        return len(self) + (0 if self.rest is None else int(self.rest[:, -1, -1].sum()))

    @cached_property
    def groups(self) -> Tensor:
        """int64 [n], the group of each image in a jackknife: even, and drawn, within each class where these are known.

        Labels of samples are not drawn, they have fixed shares: groups of other shares would make the error too large,
        and groups that are classes, where these take turns in a folder, many times too large.
        """
        if self.assigned is not None:
            return self.assigned
        drawn = random_numbers(self.indices)
        order = np.lexsort((drawn,) if self.labels is None else (drawn, self.labels.numpy()))
        groups = torch.empty(len(self), dtype=torch.int64)
        groups[torch.from_numpy(order)] = torch.arange(len(self)) % GROUPS
        return groups

    @cached_property
    def mean(self) -> Tensor:
        """float64 [d]"""
        total = self.values.double().sum(0)
        return (total if self.rest is None else total + self.rest[:, -1, :-1].sum(0)) / self.count

    @cached_property
    def sums(self) -> Tensor:
        """float64 [d + 1, d + 1], `sums` of all images, about `centre`."""
        if self.whole is not None:
            whole, group = self.whole
            mine = sums(whole.values[whole.groups == group], whole.centre)
            return whole.sums - mine - (0 if whole.rest is None else whole.rest[group])
        return sums(self.values, self.centre) + (0 if self.rest is None else self.rest.sum(0))

    @property
    def centre(self) -> Tensor | float:
        """The mean, for precision, unless the sums have begun before it was known."""
        return self.mean if self.rest is None else 0.0

    @property
    def covariance(self) -> Tensor:
        """float64 [d, d], unbiased"""
        total = self.sums[-1, :-1]
        return torch.addr(self.sums[:-1, :-1], total, total, alpha=-1 / self.count) / (self.count - 1)

    @cached_property
    def factor(self) -> Tensor:
        """float64 [d, rank], see `factor_of`"""
        return factor_of(self.covariance)

    def select(self, which: Tensor) -> "Features":
        """Some of the images whose features are held.

        Args:
            which: bool [n], or their positions int64.
        """
        parts = (self.values, self.logits, self.labels, self.indices)
        chosen = Features(*(None if part is None else part[which] for part in parts))
        chosen.assigned = self.groups[which]
        return chosen

    def without(self, group: int) -> "Features":
        """All images but those of a group."""
        others = self.select(self.groups != group)
        if self.rest is not None:
            others.rest = self.rest * (torch.arange(GROUPS) != group)[:, None, None]
        others.whole = (self, group)
        return others

    def some(self, number: int) -> "Features":
        """At most so many of the images, drawn at random: in a folder the first are of one class."""
        if len(self) <= number:
            return self
        if number not in self.drawn:
            chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:number]
            self.drawn[number] = self.select(chosen.sort().values)
        return self.drawn[number]


def random_numbers(indices: Tensor) -> np.ndarray:
    """A number in [0, 1) for each index [n], always the same one."""
    return table(int(indices.max()).bit_length() if len(indices) else 0)[indices.numpy()]


def groups_of(indices: Tensor) -> Tensor:
    """The group of a jackknife, int64 [n], of each image whose features are not held: drawn, for any number of them."""
    return torch.from_numpy(random_numbers(indices) * 2**20 % GROUPS).long()


@lru_cache
def table(bits: int) -> np.ndarray:
    """`random_numbers` of the first 2^bits indices; a longer table begins with a shorter one."""
    return np.random.RandomState(0).random_sample(2**bits)


def sums(values: Tensor, centre: Tensor | float = 0.0) -> Tensor:
    """X'X in float64 of values [N, d] less a centre, and a column of ones: products, sums and N in what adds up."""
    x = torch.cat([values.double() - centre, torch.ones(len(values), 1).double()], 1)
    return x.T @ x


def factor_of(covariance: Tensor) -> Tensor:
    """L [d, rank] with covariance = L L', without the directions that are rounding noise."""
    noise = len(covariance) * torch.finfo(covariance.dtype).eps
    triangle, failed = torch.linalg.cholesky_ex(covariance)  # a tenth of the time of eigenvectors, for full rank only
    pivots = triangle.diagonal().square()
    if not failed and pivots.min() > noise * pivots.max():
        return triangle
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > noise * values[-1]
    return vectors[:, keep] * values[keep].sqrt()


class Collector:
    """Gathers the features that each process computes for its own share of the images.

    Beyond `keep` images only a random choice of them keeps its features, always the same one; the others go into sums.

    Args:
        extractor: of the features.
        keep: images whose own features are held.
    """

    def __init__(self, extractor: Extractor, keep: int = KEEP):
        self.extractor, self.keep = extractor, keep
        self.parts: list[tuple[Tensor, ...]] = []  # indices [b], values [b, d], logits [b, K or 0], labels [b, 1 or 0]
        self.rest: Tensor | None = None
        self.seen = 0
        self.end = 0  # beyond the largest index

    def update(self, images: Tensor, indices: Tensor, labels: Tensor | None = None) -> None:
        """Computes the features of some images.

        Args:
            images: uint8 [B, C, H, W].
            indices: int64 [B], the number of each image; no number comes twice over all processes.
            labels: int64 [B], or None.
        """
        values, logits = self.extractor.both(images)
        logits = values[:, :0] if logits is None else logits
        labels = indices[:, None][:, :0] if labels is None else labels[:, None]
        self.parts.append(tuple(part.detach().cpu().clone() for part in (indices, values, logits, labels)))
        self.seen += len(indices)
        self.end = max(self.end, int(indices.max()) + 1)
        if sum(len(part[0]) for part in self.parts) > self.keep * 5 // 4:
            self.release(self.chosen(torch.cat([part[0] for part in self.parts])))

    def chosen(self, indices: Tensor) -> Tensor:
        """Which images are kept, ascending: what is left out of some of them is left out of more of them too."""
        return indices[random_numbers(indices).argsort()[: self.keep]].sort().values

    def release(self, kept: Tensor) -> None:
        """Adds the images that are not kept to the sums and lets go of their features."""
        columns = [torch.cat(column) for column in zip(*self.parts, strict=True)]
        stay = torch.isin(columns[0], kept)
        groups = groups_of(columns[0])
        for group in groups[~stay].unique().tolist():
            more = sums(columns[1][~stay & (groups == group)])
            if self.rest is None:
                self.rest = more.new_zeros(GROUPS, *more.shape)
            self.rest[group] += more
        self.parts = [tuple(column[stay] for column in columns)]

    def gather(self) -> Features:
        """The same features on every process, in the order of the indices; every process must call it."""
        widths = [part.shape[1] for part in self.parts[0][1:]] if self.parts else [0, 0, 0]
        end, *widths = self.reduce(torch.tensor([self.end, *widths]), largest=True).tolist()
        if end == 0:
            raise ValueError("no image was generated: raise --model.val_images or --model.test_images")
        held = torch.zeros(end, dtype=torch.int64)
        for part in self.parts:
            held[part[0]] = 1
        kept = self.chosen(self.reduce(held).nonzero()[:, 0])
        if self.parts:
            self.release(kept)
        columns = []
        for number, dtype in enumerate((torch.float32, torch.float32, torch.int64)):
            column = torch.zeros(len(kept), widths[number], dtype=dtype)
            for part in self.parts:  # each image is of one process: the sum puts all into their places
                column[torch.searchsorted(kept, part[0])] = part[1 + number]
            columns.append(self.reduce(column) if widths[number] else None)
        rest = None
        if self.reduce(torch.tensor(self.seen)) > len(kept):
            size = widths[0] + 1
            rest = self.reduce(torch.zeros(GROUPS, size, size).double() if self.rest is None else self.rest)
        values, logits, labels = columns
        return Features(values, logits, None if labels is None else labels[:, 0], kept, rest)

    def reduce(self, mine: Tensor, largest: bool = False) -> Tensor:
        """The sum over all processes, or the largest."""
        if not (dist.is_available() and dist.is_initialized()):
            return mine
        everyones = mine.to(self.extractor.device, copy=True)
        dist.all_reduce(everyones, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return everyones.cpu()
