"""Truncation: samples of a trained generator that are more typical, and more alike."""

import math
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from src.engine import seeding
from src.engine.batch_norm import has_batch_norm, measure_batch_norm_
from src.networks.base import Generator

MEANS = 4096  # samples of which the mean w is taken
NORMS = (32, 64)  # batches on which batch norm is measured, and their size


class Truncated(nn.Module):
    """A generator whose samples are nearer to their mean.

    Styles w go straight towards their mean, that of their class where there are classes (arXiv:1912.04958). Without
    styles each number of z is moved into a truncated normal distribution (arXiv:1809.11096, Section 3.1): quantile by
    quantile, so that a sample stays akin to what it was. Smaller latents alone would fade: batch norm is measured anew
    on them, as in that paper.

    Args:
        generator: trained, on its device; it stays as it is.
        truncation: deviation from the mean as a share of what it was, above 0; 1 changes nothing.

    Raises:
        ValueError: the share is out of range.
    """

    def __init__(self, generator: Generator, truncation: float):
        super().__init__()
        check_share(truncation)
        self.truncation, self.bound = truncation, bound_of(truncation)
        self.output_shape, self.num_classes = generator.output_shape, generator.num_classes
        self.latent_shape, self.num_styles = generator.latent_shape, generator.num_styles
        self.generator = deepcopy(generator).eval()
        self.means: dict[int, Tensor] = {}
        if truncation < 1 and not self.num_styles:
            batches, size = NORMS
            samples = (self.samples(number * size, size) for number in range(batches))
            measure_batch_norm_(self.generator, ((squeezed(z, self.bound), labels) for z, labels in samples))

    def samples(self, first: int, count: int, label: int | None = None) -> tuple[Tensor, Any]:
        """Latents that are always the same, and labels: the classes in turn, or `label`."""
        device = next(iter(self.generator.state_dict().values())).device
        numbers = range(first, first + count)
        z = torch.stack([seeding.normal(self.latent_shape, 0, seeding.TYPICAL, number) for number in numbers])
        labels = [number % self.num_classes if label is None else label for number in numbers if self.num_classes]
        return z.to(device), torch.tensor(labels, device=device) if labels else None

    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Latents [B, *latent_shape] -> images [B, channels, H, W]."""
        if not self.num_styles:
            return self.generator(squeezed(z, self.bound), condition)
        w = self.to_w(z, condition)
        return self.from_styles(w[:, None].expand(-1, self.num_styles, -1), z)

    def to_w(self, z: Tensor, condition: Any) -> Tensor:
        """Latents and labels -> the style w [B, D], truncated."""
        w = self.generator.to_w(z, condition)
        if self.truncation == 1:
            return w
        if condition is None:
            means = self.mean_w(None)
        elif condition.is_floating_point():  # shares of classes
            means = condition @ torch.stack([self.mean_w(label) for label in range(self.num_classes)])
        else:
            means = torch.stack([self.mean_w(label) for label in condition.tolist()])
        return torch.lerp(means, w, self.truncation)

    def from_styles(self, styles: Tensor, z: Tensor) -> Tensor:
        return self.generator.from_styles(styles, z)

    def mean_w(self, label: int | None) -> Tensor:
        """The mean w [D] of a class, or of all samples."""
        if label not in self.means:
            size = NORMS[1]  # a batch at once: the noise maps of StyleGAN2 are a part of its latents
            parts = [self.generator.to_w(*self.samples(first, size, label)) for first in range(0, MEANS, size)]
            self.means[label] = torch.cat(parts).mean(0)
        return self.means[label]


def say_truncation(generator: Generator, truncation: float) -> None:
    """Says in a line what truncation does to the samples of a generator.

    Raises:
        ValueError: as `Truncated`.
    """
    check_share(truncation)
    if truncation == 1 or rank_zero_only.rank:
        return
    told = f"z from a normal distribution cut at ±{bound_of(truncation):.2f}, which has that deviation"
    told = f"there is no w, so {told}" + "; batch norm is measured anew" * has_batch_norm(generator)
    if generator.num_styles:
        told = "w towards its mean" + ", class by class" * bool(generator.num_classes)
    print(f"truncation {truncation:g}: {told}", flush=True)


class Truncate(Callback):
    """Truncates the generator of `predict`, once its weights are loaded.

    Args:
        truncation: as of `Truncated`.
    """

    def __init__(self, truncation: float):
        self.truncation = truncation

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.truncation < 1:
            pl_module.generator_ema = Truncated(pl_module.average, self.truncation)


def check_share(truncation: float) -> None:
    if not 0 < truncation <= 1:
        raise ValueError(f"--truncation must be above 0 and at most 1, which changes nothing; got {truncation}")


def bound_of(deviation: float) -> float:
    """Where a standard normal distribution is cut, on both sides, to have this deviation."""
    if deviation == 1:
        return math.inf
    low, high = 0.0, 40.0
    for _ in range(100):
        bound = (low + high) / 2
        inside = math.erf(bound / math.sqrt(2))
        density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
        # Below 0.01 it is as good as uniform, and the formula subtracts nearly equal numbers.
        variance = bound**2 / 3 if bound < 0.01 else 1 - 2 * bound * density / inside
        low, high = (bound, high) if variance < deviation**2 else (low, bound)
    return high


def squeezed(z: Tensor, bound: float) -> Tensor:
    """Standard normal numbers as those of a normal distribution cut at ±bound, each at its old quantile."""
    if math.isinf(bound):
        return z
    outside = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    # By the tail that is nearer: a quantile near 1 has no digits left.
    quantiles = outside + (1 - 2 * outside) * torch.special.ndtr(-z.double().abs())
    return (torch.special.ndtri(quantiles).abs() * z.sign()).to(z.dtype)
