"""Figures of nearest neighbours in the space of features: precision, recall, density, coverage, memorization."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from src.metrics.base import Metric
from src.metrics.features import Extractor
from src.metrics.statistics import Features

ROWS = 500  # of a matrix of distances held at once


class PrecisionRecall(Metric):
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
        super().__init__(extractor, split)
        if k < 1:
            raise ValueError(f"{type(self).__name__} k must be at least 1, got {k}")
        self.k, self.max_images = k, max_images

    def options(self) -> dict[str, Any]:
        return {"k": self.k, "max_images": self.max_images}

    def sets(self, real: Features, fake: Features) -> tuple[Tensor, Tensor]:
        """float64 features of the images that are used.

        Raises:
            ValueError: no more images than neighbours.
        """
        x, y = (self.some(features) for features in (real, fake))
        if min(len(x), len(y)) <= self.k:
            raise ValueError(
                f"{self.name} with k {self.k} needs more images than {len(x)} real and {len(y)} generated ones"
            )
        return x, y

    def some(self, features: Features) -> Tensor:
        """float64 features of at most `max_images` images, drawn at random: in a folder the first are of one class."""
        values, count = features.values, len(features)
        if count > self.max_images:
            chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: self.max_images]
            values = values[chosen.sort().values]
        return values.double()

    def radii(self, features: Features) -> Tensor:
        """Those of the images that are used; kept, for the jackknife and the next validation."""
        key = (self.k, self.max_images)
        if key not in features.radii:
            features.radii[key] = radii(self.some(features), self.k)
        return features.radii[key]

    def values(self, real: Features, fake: Features) -> list[float]:
        x, y = self.sets(real, fake)
        return [covered(y, x, self.radii(real)), covered(x, y, self.radii(fake))]


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

    def values(self, real: Features, fake: Features) -> list[float]:
        x, y = self.sets(real, fake)
        radius, inside, nearest = self.radii(real), 0, []
        for rows, limit in zip(x.split(ROWS), radius.split(ROWS), strict=True):
            distances = squared_distances(rows, y)
            inside += (distances < limit[:, None]).sum().item()
            nearest.append(distances.amin(1) < limit)
        return [inside / (self.k * len(y)), torch.cat(nearest).double().mean().item()]


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

    def values(self, real: Features, fake: Features) -> list[float]:
        x, y = self.sets(real, fake)
        smallest, which = nearest(y, x)
        return [(smallest <= self.radii(real)[which]).double().mean().item()]


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
    result = []
    for start in range(0, len(x), ROWS):
        distances = squared_distances(x[start : start + ROWS], x)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf  # not itself; a duplicate counts
        result.append(distances.topk(k, 1, largest=False).values[:, -1])
    return torch.cat(result)


def covered(points: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of `points` that lie in a ball around some centre."""
    inside = [(squared_distances(rows, centres) <= radius).any(1) for rows in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance [N] of each point to the nearest of the others, and which one that is [N]."""
    found = [squared_distances(rows, others).min(1) for rows in points.split(ROWS)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
