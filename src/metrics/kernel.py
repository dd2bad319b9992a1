"""Kernel distances between the features of real and of generated images: KID and CMMD."""

from typing import Any

import torch
from torch import Tensor

from src.metrics.base import Metric
from src.metrics.statistics import Features

ROWS = 500  # of a kernel matrix held at once


class KernelDistance(Metric):
    """Unbiased squared maximum mean discrepancy with a cubic kernel (KID, arXiv:1801.01401).

    Over all pairs, so without a random choice; torchmetrics draws unseeded subsets, other ones on each process, and
    gives their spread as if it were an error.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
    """

    figure_names = ("kid",)

    def values(self, real: Features, fake: Features) -> list[float]:
        x, y = real.values.double(), fake.values.double()

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            base = (a @ b.T).div_(a.shape[1]).add_(1)
            return base.square().mul_(base)

        within = [(total(kernel, a, a) - kernel_diagonal(a)) / (len(a) * (len(a) - 1)) for a in (x, y)]
        return [within[0] + within[1] - 2 * total(kernel, x, y) / (len(x) * len(y))]


class MeanDiscrepancy(Metric):
    """Maximum mean discrepancy of unit features with a Gaussian kernel, x1000 (CMMD, arXiv:2401.09603).

    As published a V-statistic: it counts each image with itself, so equal distributions score above 0. The published
    figure takes CLIP features; on others it is comparable with itself alone.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
    """

    figure_names = ("mmd",)
    sigma = 10.0

    def values(self, real: Features, fake: Features) -> list[float]:
        x, y = (f.values.double() / f.values.double().norm(dim=1, keepdim=True) for f in (real, fake))

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return torch.exp(-(2 - 2 * a @ b.T) / (2 * self.sigma**2))

        means = [total(kernel, a, b) / (len(a) * len(b)) for a, b in ((x, x), (y, y), (x, y))]
        return [1000 * (means[0] + means[1] - 2 * means[2])]

    def options(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "scale": 1000}


def total(kernel: Any, a: Tensor, b: Tensor) -> float:
    """Sum of k(a_i, b_j) over all pairs, some rows at a time."""
    return sum(kernel(rows, b).sum().item() for rows in a.split(ROWS))


def kernel_diagonal(a: Tensor) -> float:
    """Sum of k(a_i, a_i) of the cubic kernel."""
    return ((a.square().sum(1) / a.shape[1] + 1) ** 3).sum().item()
