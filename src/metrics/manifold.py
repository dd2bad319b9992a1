"""Figures of nearest neighbours in the space of features: precision, recall, density, coverage, memorization."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from src.metrics.base import PairMetric
from src.metrics.features import Extractor
from src.metrics.statistics import Features

ROWS = 500  # of a matrix of distances held at once


class PrecisionRecall(PairMetric):
    """Share of generated images near real ones, and of real images near generated ones (arXiv:1904.06991).

    Near: within the ball around an image that reaches to its k-th neighbour of its own set, border included.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
        k: neighbours; 3 as published.
        max_images: of each set; drawn at random, always the same ones.
    """

    figure_names = ("precision", "recall")
    higher_is_better = True

    def __init__(
        self,
        extractor: Extractor | None = None,
        split: Literal["train", "test"] = "train",
        k: int = 3,
        max_images: int = 10000,
    ):
        super().__init__(extractor, split, max_images)
        if k < 1:
            raise ValueError(f"{type(self).__name__} k must be at least 1, got {k}")
        self.k = k

    def options(self) -> dict[str, Any]:
        return {"k": self.k} | super().options()

    @property
    def least(self) -> int:
        return self.k + 1  # an image has k neighbours

    def sets(self, real: Features, fake: Features, included: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """float64 features of both sets, radii of the real ones, and which generated ones a union has, float64 [S, M].

        Raises:
            ValueError: no more images than neighbours.
        """
        members = included[:, fake.groups]
        self.require(self.least, len(real), int(members.sum(1).min()))
        if self.k not in real.memory:  # for the next validation
            real.memory[self.k] = radii(real.values.double(), self.k)
        return real.values.double(), fake.values.double(), real.memory[self.k], members

    def table(self, real: Features, fake: Features, included: Tensor) -> Tensor:
        x, y, radius, members = self.sets(real, fake, included)
        limits = radii_within(y, self.k, fake.groups, included).masked_fill_(members == 0, -1)
        near = [
            torch.stack([(distances <= limit).any(1) for limit in limits])
            for distances in (squared_distances(rows, y) for rows in x.split(ROWS))
        ]
        return torch.stack([shares(covered(y, x, radius), members), torch.cat(near, 1).double().mean(1)], 1)


class DensityCoverage(PrecisionRecall):
    """How many real balls hold a generated image, and how many of them hold any (arXiv:2002.09797).

    Unlike precision and recall, an outlier with a huge ball does not decide them. Border excluded, as published.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
        k: neighbours; 5 as published.
        max_images: of each set; drawn at random, always the same ones.
    """

    figure_names = ("density", "coverage")

    def __init__(
        self,
        extractor: Extractor | None = None,
        split: Literal["train", "test"] = "train",
        k: int = 5,
        max_images: int = 10000,
    ):
        super().__init__(extractor, split, k, max_images)

    def table(self, real: Features, fake: Features, included: Tensor) -> Tensor:
        x, y, radius, members = self.sets(real, fake, included)
        groups = functional.one_hot(fake.groups, included.shape[1]).float()
        counts = [  # [n, GROUPS]: generated images of a group in the ball around a real one
            (squared_distances(rows, y) < limit[:, None]).float() @ groups
            for rows, limit in zip(x.split(ROWS), radius.split(ROWS), strict=True)
        ]
        counts = torch.cat(counts).double() @ included.T
        return torch.stack([counts.sum(0) / (self.k * members.sum(1)), (counts > 0).double().mean(0)], 1)


class Memorization(PrecisionRecall):
    """Share of generated images that lie no farther from a training image than its own nearest neighbour does.

    One minus the authenticity of arXiv:2102.08921: copies of training images score 1, and so may good images of a
    dense class; the pictures of nearest neighbours that `test` saves tell the two apart.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with; the training images are the ones that can be memorized.
        max_images: of each set; drawn at random, always the same ones.
    """

    figure_names = ("memorization",)
    higher_is_better = False

    def __init__(
        self, extractor: Extractor | None = None, split: Literal["train", "test"] = "train", max_images: int = 10000
    ):
        super().__init__(extractor, split, 1, max_images)

    def table(self, real: Features, fake: Features, included: Tensor) -> Tensor:
        x, y, radius, members = self.sets(real, fake, included)
        smallest, which = nearest(y, x)
        return shares(smallest <= radius[which], members)[:, None]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2, float64 [N, d], [M, d] to [N, M], exactly 0 for copies.

    Centred first, and what is left of rounding (1e-12 of the squared norms) set to 0: `torch.cdist` in float32 is off
    by 1 for features such as Inception's.
    """
    centre = b.mean(0)
    a, b = a - centre, b - centre
    norms_a, norms_b = a.square().sum(1), b.square().sum(1)
    distances = torch.addmm(norms_b, a, b.T, alpha=-2).add_(norms_a[:, None])  # in place: memory takes the time
    return functional.threshold_(distances, 1e-12 * (norms_a.max() + norms_b.max()).item(), 0.0)


def radii(x: Tensor, k: int) -> Tensor:
    """Squared distance [N] of each of x [N, d] to its k-th nearest neighbour among the others."""
    return radii_within(x, k, torch.zeros(len(x), dtype=torch.int64), torch.ones(1, 1))[0]


def radii_within(x: Tensor, k: int, groups: Tensor, included: Tensor) -> Tensor:
    """`radii` [S, N] when only some groups are there: each neighbour is among the k nearest of its group.

    Args:
        x: [N, d].
        k: neighbours.
        groups: int64 [N].
        included: [S, G], not 0 where a group is there.
    """
    groups_of = [(groups == group).nonzero()[:, 0] for group in range(included.shape[1])]
    result = []
    for start in range(0, len(x), ROWS):
        distances = squared_distances(x[start : start + ROWS], x)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf  # not itself; a duplicate counts
        near = [distances[:, g].topk(min(k, len(g)), 1, largest=False).values for g in groups_of]
        owner = torch.cat([torch.full((n.shape[1],), g) for g, n in enumerate(near)])
        near = torch.cat(near, 1)
        kth = [near[:, there[owner] > 0].topk(k, 1, largest=False).values[:, -1] for there in included]
        result.append(torch.stack(kth))
    return torch.cat(result, 1)


def shares(which: Tensor, members: Tensor) -> Tensor:
    """Share [S] of the members [S, N] that `which` [N] is true of."""
    return members @ which.double() / members.sum(1)


def covered(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """Which of `points` lie in a ball around some centre, bool [N]."""
    return torch.cat([(squared_distances(rows, centres) <= radius).any(1) for rows in points.split(ROWS)])


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance [N] of each point to the nearest of the others, and which one that is [N]."""
    found = [squared_distances(rows, others).min(1) for rows in points.split(ROWS)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
