"""Frechet distance between real and generated images, FID by default."""

from typing import Literal

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.utilities import rank_zero_warn

from src.metrics.base import Metric
from src.metrics.features import Extractor, Inception


class FrechetDistance(Metric):
    """Distance between Gaussians fitted to the features of real and of fake images (FID, arXiv:1706.08500).

    Biased upwards by roughly a constant over the number of images: compare values at equal numbers only.

    Args:
        extractor: what computes the features; Inception by default, which makes this the FID.
        split: real images to compare with. The literature compares with the training images.
    """

    def __init__(self, extractor: Extractor | None = None, split: Literal["train", "test"] = "train") -> None:
        self.extractor = Inception() if extractor is None else extractor
        self.split = split
        self.sums: FrechetInceptionDistance | None = None
        self.warned = False

    @torch.inference_mode(False)
    def setup(self, device: torch.device | str) -> None:
        self.extractor.to(device).load()
        self.name = self.extractor.distance if self.split == "train" else f"{self.extractor.distance}-{self.split}"
        if self.sums is None:
            self.sums = FrechetInceptionDistance(_Features(self.extractor), reset_real_features=False)
        self.sums.to(_float64_device(self.extractor.device))

    @torch.inference_mode()
    def update(self, images: Tensor, real: bool) -> None:
        self.sums.update(images, real=real)

    @torch.inference_mode()
    def compute(self) -> float:
        """The distance over the images of all processes, the same on each; a collective call.

        torchmetrics accumulates and synchronizes; the distance itself is `frechet_distance`, on the CPU, where it has
        the same digits for every device. torchmetrics' own `compute` takes the square roots of the eigenvalues of a
        non-symmetric product, which is too low and even negative for fewer images than features, and fails on a
        process that has seen none.

        Raises:
            ValueError: fewer than two real or fake images, or features that are not finite.
        """
        with self.sums.sync_context():
            real, fake = (
                [getattr(self.sums, f"{kind}_features_{key}").cpu() for key in ("num_samples", "sum", "cov_sum")]
                for kind in ("real", "fake")
            )
        self.num_real, self.num_fake = int(real[0]), int(fake[0])
        self.has_real = self.num_real >= 2
        if min(self.num_real, self.num_fake) < 2:
            raise ValueError(
                f"{self.name}: {self.num_real} real and {self.num_fake} fake images; it needs 2 of each at the least"
            )
        for kind, (_, *sums) in (("real", real), ("fake", fake)):
            if not all(values.isfinite().all() for values in sums):
                raise ValueError(
                    f"{self.name}: features of the {kind} images are not finite; "
                    f"check the weights of the extractor ({self.extractor.name})"
                )
        if min(self.num_real, self.num_fake) <= self.extractor.num_features and not self.warned:
            self.warned = True
            rank_zero_warn(
                f"{self.name}: {self.num_real} real and {self.num_fake} fake images for "
                f"{self.extractor.num_features} features: the value is biased upwards; "
                "use more images than features, or compare at this number only"
            )
        return frechet_distance(*_mean_and_covariance(*real), *_mean_and_covariance(*fake))

    @torch.inference_mode()
    def reset(self, real: bool = False) -> None:
        if real:
            torchmetrics.Metric.reset(self.sums)  # past `reset_real_features=False`
            self.has_real = False
        else:
            self.sums.reset()

    def protocol(self) -> dict:
        return {
            "num_real": self.num_real,
            "num_fake": self.num_fake,
            "split": self.split,
            "extractor": self.extractor.describe(),
        }


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2).

    With S = L L', tr sqrt(S1 S2) is the sum of the singular values of L1' L2. Unlike the eigenvalues of S1 S2 these
    are exact for covariances of any rank, to some 1e-13, and do not depend on the order in which sums were taken.

    Args:
        mean1: float64 [d].
        cov1: float64 [d, d], symmetric and positive semidefinite.
        mean2: like `mean1`.
        cov2: like `cov1`.

    Returns:
        The distance, at least 0.
    """
    root = torch.linalg.svdvals(_factor(cov1).T @ _factor(cov2)).sum()
    traces = cov1.trace() + cov2.trace()
    distance = ((mean1 - mean2).square().sum() + traces - 2 * root).item()
    assert distance > -1e-6 * max(1.0, traces.item()), f"a negative distance, {distance}, is more than rounding"
    return max(distance, 0.0)


def _factor(cov: Tensor) -> Tensor:
    """L [d, rank] with cov = L L', without the directions that are rounding noise."""
    values, vectors = torch.linalg.eigh(cov)
    keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors[:, keep] * values[keep].sqrt()


def _mean_and_covariance(num: Tensor, total: Tensor, outer_total: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance from a count, a sum and a sum of outer products."""
    mean = total / num
    return mean, (outer_total - num * mean.outer(mean)) / (num - 1)


class _Features(nn.Module):
    """The extractor in the form that torchmetrics asks for; not a parent of the network, which stays out of modules."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.num_features = extractor.num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images).to(_float64_device(self.extractor.device))


def _float64_device(device: torch.device) -> torch.device:
    """Where float64 sums are kept: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device
