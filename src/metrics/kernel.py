"""Kernel distances between the features of real and of generated images: KID and CMMD."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from src.metrics.base import PairMetric
from src.metrics.statistics import GROUPS, Features

ROWS = 500  # of a kernel matrix held at once


class KernelDistance(PairMetric):
    """Unbiased squared maximum mean discrepancy with a cubic kernel (KID, arXiv:1801.01401).

    Over all pairs of the images that are used; torchmetrics draws unseeded subsets, other ones on each process, and
    gives their spread as if it were an error.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
        max_images: of each set; drawn at random, always the same ones.
    """

    figure_names = ("kid",)
    scale = 1.0
    with_itself = False  # whether an image is paired with itself

    def points(self, features: Features) -> Tensor:
        """What the kernel is applied to, float64 [N, d]."""
        return features.values.double()

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """k(a_i, b_j), [N, d], [M, d] to [N, M]."""
        base = (a @ b.T).div_(a.shape[1]).add_(1)
        return base.square().mul_(base)

    def table(self, real: Features, fake: Features, included: Tensor) -> Tensor:
        x, y = self.points(real), self.points(fake)
        one, groups = torch.ones(len(x), 1).double(), one_hot(fake.groups, GROUPS).double()
        key = (self.figure_names, "within")
        if key not in real.memory:  # for the next validation
            real.memory[key] = self.sums(x, x, one, one, within=True).item()
        between, within = self.sums(x, y, one, groups), self.sums(y, y, groups, groups, within=True)
        num_real, num_fake = len(x), included @ groups.sum(0)
        within = (included @ within * included).sum(1) / self.pairs(num_fake)
        between = included @ between[0] / (num_real * num_fake)
        return self.scale * (real.memory[key] / self.pairs(num_real) + within - 2 * between)[:, None]

    def pairs(self, number: Any) -> Any:
        """How many there are in a set of so many images."""
        return number * (number if self.with_itself else number - 1)

    def sums(self, a: Tensor, b: Tensor, groups_a: Tensor, groups_b: Tensor, within: bool = False) -> Tensor:
        """Sums [G, H] of the kernel over the pairs of two groups, from memberships [N, G] and [M, H].

        Args:
            within: whether a and b are the same images.
        """
        result = 0
        for start in range(0, len(a), ROWS):
            block = self.kernel(a[start : start + ROWS], b)
            if within and not self.with_itself:
                rows = torch.arange(len(block))
                block[rows, start + rows] = 0
            result += groups_a[start : start + ROWS].T @ (block @ groups_b)
        return result


class MeanDiscrepancy(KernelDistance):
    """Maximum mean discrepancy of unit features with a Gaussian kernel, x1000 (CMMD, arXiv:2401.09603).

    As published a V-statistic: it counts each image with itself, so equal distributions score above 0. The published
    figure takes CLIP features; on others it is comparable with itself alone.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
        max_images: of each set; drawn at random, always the same ones.
    """

    figure_names = ("mmd",)
    scale = 1000.0
    with_itself = True
    sigma = 10.0

    def points(self, features: Features) -> Tensor:
        return normalize(features.values.double())

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T).sub_(1).div_(self.sigma**2).exp_()

    def options(self) -> dict[str, Any]:
        return super().options() | {"sigma": self.sigma, "scale": 1000}
