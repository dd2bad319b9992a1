"""Frechet distance between real and generated images, FID by default."""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from src.metrics.base import Metric
from src.metrics.features import Extractor
from src.metrics.statistics import Features


class FrechetDistance(Metric):
    """Distance between Gaussians fitted to the features of real and of generated images (FID, arXiv:1706.08500).

    Biased upwards by roughly a constant over the number of images: compare values at equal numbers only.
    torchmetrics takes the square root by eigenvalues of a non-symmetric product, which comes out too low, and negative
    for fewer images than features; and fails on a process without an image. Hence `frechet_distance`.

    Args:
        extractor: what computes the features; Inception makes this the FID; see `Metric`.
        split: real images to compare with. The literature compares with the training images.
    """

    of_sums = True
    warned = False

    @property
    def names(self) -> list[str]:
        return [self.extractor.distance + ("" if self.split == "train" else f"-{self.split}")]

    def values(self, real: Features, fake: Features) -> list[float]:
        return [frechet_distance(real, fake)]

    def figures(self, real: Features, fake: Features, errors: bool, protocol: dict[str, Any]) -> list[dict[str, Any]]:
        if min(real.count, fake.count) <= real.values.shape[1] and not self.warned:
            self.warned = True
            rank_zero_warn(
                f"{self.name}: {real.count} real and {fake.count} generated images for {real.values.shape[1]} features:"
                " the value is biased upwards; use more images than features, or compare at this number only"
            )
        return super().figures(real, fake, errors, protocol)


class FrechetDistanceInfinity(Metric):
    """Frechet distance extrapolated to infinitely many generated images (FID_inf, arXiv:1911.07023).

    A straight line through the distances of 15 subsets of the generated images over 1/N; its intercept.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
    """

    figure_names = ("frechet-infinity",)
    num_points = 15
    least = 3  # a line takes subsets of two sizes

    def values(self, real: Features, fake: Features) -> list[float]:
        sizes = torch.linspace(max(2, len(fake) // 10), len(fake), self.num_points).round().long().tolist()
        order = torch.randperm(len(fake), generator=torch.Generator().manual_seed(0))
        distances = torch.tensor([frechet_distance(real, fake.select(order[:n])) for n in sizes], dtype=torch.float64)
        inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
        slope = ((inverse - inverse.mean()) * distances).sum() / (inverse - inverse.mean()).square().sum()
        return [(distances.mean() - slope * inverse.mean()).item()]

    def options(self) -> dict[str, Any]:
        return {"points": self.num_points}


class ClassFrechetDistance(Metric):
    """Frechet distance within each class of a class-conditional generator, averaged over the classes.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
        classes: whether to list every class beside the mean.

    Raises:
        ValueError: without labels, or with fewer than two real or generated images of a class.
    """

    figure_names = ("frechet-in-class",)

    def __init__(
        self, extractor: Extractor | None = None, split: Literal["train", "test"] = "train", classes: bool = False
    ):
        super().__init__(extractor, split)
        self.classes = classes
        self.num_classes = 0

    @property
    def names(self) -> list[str]:
        return [
            name + self.suffix
            for name in (*self.figure_names, *(f"frechet-class-{c}" for c in range(self.num_classes)))
        ]

    def check(self, data: Any, num_fake: int) -> None:
        super().check(data, num_fake)
        labels, conditions = data.split(self.split)[1], data.conditions(torch.arange(num_fake))
        if labels is None or isinstance(conditions, Tensor):  # of a bag the labels are known once it is made
            self.require_classes(None if labels is None else torch.from_numpy(labels), conditions)

    def require_classes(self, real: Tensor | None, fake: Tensor | None) -> int:
        """The number of classes, of each of which both sets of labels [N] must have enough images."""
        for kind, labels in (("real", real), ("generated", fake)):
            if labels is None:
                raise ValueError(
                    f"{self.name}: the {kind} images have no labels: leave it out of --model.metrics, or train a"
                    " class-conditional generator on labelled images"
                )
        num_classes = int(real.max()) + 1
        for label in range(num_classes):
            self.require(2, int((real == label).sum()), int((fake == label).sum()), f" of class {label}")
        return num_classes

    def values(self, real: Features, fake: Features) -> list[float]:
        distances = [
            frechet_distance(real.select(real.labels == label), fake.select(fake.labels == label))
            for label in range(self.require_classes(real.labels, fake.labels))
        ]
        self.num_classes = len(distances) if self.classes else 0
        return [sum(distances) / len(distances), *distances[: self.num_classes]]


def frechet_distance(real: Features, fake: Features) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2).

    With S = L L', tr sqrt(S1 S2) is the sum of the singular values of L1' L2; and with few images X2 (centred, divided
    by sqrt(N - 1)) take the part of L2, so that no second eigendecomposition is needed. Exact for any rank.

    Args:
        real: features, whose factor is computed once.
        fake: features.

    Returns:
        The distance, at least 0.
    """
    if fake.count <= fake.values.shape[1] and fake.rest is None:
        other = (fake.values.double() - fake.mean).T / (len(fake) - 1) ** 0.5
        trace = other.square().sum()
    else:
        other, trace = fake.factor, fake.covariance.trace()
    return distance(real.mean, real.factor, real.factor.square().sum(), fake.mean, other, trace)


def distance(mean1: Tensor, factor1: Tensor, trace1: Tensor, mean2: Tensor, factor2: Tensor, trace2: Tensor) -> float:
    """`frechet_distance` from means [d], factors [d, r] and traces of the covariances, in float64."""
    root = torch.linalg.svdvals(factor1.T @ factor2).sum()
    result = ((mean1 - mean2).square().sum() + trace1 + trace2 - 2 * root).item()
    assert result > -1e-6 * max(1.0, (trace1 + trace2).item()), f"a negative distance, {result}, is more than rounding"
    return max(result, 0.0)
