"""Penalties without a second derivative: consistency, finite differences, reconstruction."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from src.engine.schedules import Schedule
from src.images.augment import shifted
from src.objectives.regularizers import Regularizer


class Consistency(Regularizer):
    """E (D(x) - D(T(x)))^2 over real x, T a flip and a shift; CR-GAN, arXiv:1910.12027.

    T shifts by whole pixels, with what mirrors the image beyond the border, and flips half of the images.
    It costs two passes of the discriminator over the batch.

    Args:
        weight: lambda, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.
        ratio: largest shift as a share of the height and width, 0 to below 0.5.
        flip: left to right; false for letters and digits.

    Raises:
        ValueError: for a negative weight, `every` below 1, or a ratio out of range.
    """

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1, ratio: float = 0.125, flip: bool = True):
        super().__init__(weight, every)
        if not 0 <= ratio < 0.5:
            raise ValueError(f"ratio of {type(self).__name__} must be in [0, 0.5), got {ratio}")
        self.ratio, self.flip = ratio, flip

    def transformed(self, images: Tensor) -> Tensor:
        moved = shifted(images, self.ratio, beyond="reflect")
        if not self.flip:
            return moved
        hit = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(hit, moved.flip(3), moved)

    def difference(self, discriminator: nn.Module, images: Tensor, condition: Any) -> Tensor:
        before, after = (discriminator(x, condition).float() for x in (images, self.transformed(images)))
        return (before - after).square().mean()

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        return self.difference(discriminator, real, condition)


class BalancedConsistency(Consistency):
    """`Consistency` over real and generated images; bCR, arXiv:2002.04724. Four passes over a batch.

    Args:
        weight: lambda of both, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.
        ratio: largest shift as a share of the height and width, 0 to below 0.5.
        flip: left to right; false for letters and digits.

    Raises:
        ValueError: for a negative weight, `every` below 1, or a ratio out of range.
    """

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        return sum(self.difference(discriminator, images, condition) for images in (real, fake))


class ApproximateR1(Regularizer):
    """R1 without a second derivative: 1/2 E ((D(x + sigma n) - D(x)) / sigma)^2 over real x, n standard normal.

    Its expectation is that of `R1` where D is linear within sigma, so that `weight` is the same gamma; its variance
    is larger, since one direction n of all stands for the gradient. It goes with batch normalization, and costs two
    passes of the discriminator. In float32: a difference of logits of half precision is noise.

    Args:
        weight: gamma, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.
        sigma: standard deviation of the step, in units of the images in [-1, 1], above 0.

    Raises:
        ValueError: for a negative weight, `every` below 1, a sigma that is not positive, or a discriminator with
            dropout, whose own noise would count as slope.
    """

    def __init__(self, weight: float | Schedule, every: int = 1, sigma: float = 0.05):
        super().__init__(weight, every)
        if sigma <= 0:
            raise ValueError(f"sigma of {type(self).__name__} must be above 0, not {sigma}")
        self.sigma = sigma

    def check(self, discriminator: nn.Module) -> None:
        if any(isinstance(module, _DropoutNd) and module.p > 0 for module in discriminator.modules()):
            raise ValueError(
                f"{type(self).__name__} compares logits, which dropout of the discriminator changes by chance: set"
                " dropout to 0, or remove the penalty"
            )

    def slope(self, discriminator: nn.Module, images: Tensor, condition: Any) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            x = images.detach().float()
            step = self.sigma * torch.randn_like(x)
            change = discriminator(x + step, condition) - discriminator(x, condition)
        return (change / self.sigma).square().mean() / 2

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        return self.slope(discriminator, real, condition)


class ApproximateR2(ApproximateR1):
    """R2 without a second derivative: `ApproximateR1` at generated images.

    Args:
        weight: gamma, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.
        sigma: standard deviation of the step, in units of the images in [-1, 1], above 0.

    Raises:
        ValueError: as `ApproximateR1`.
    """

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        return self.slope(discriminator, fake, condition)


class SelfSupervision(Regularizer):
    """Squared errors with which the discriminator reconstructs real images from its features; FastGAN's, Section 3.2.

    The sum of three means: of the whole image, of a random quarter, and of the small image. arXiv:2101.04775 has a
    perceptual distance by a pretrained network, summed over the batch, in place of squares.

    Args:
        weight: of the term, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.

    Raises:
        ValueError: for a negative weight, `every` below 1, or a discriminator without decoders.
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1):
        super().__init__(weight, every)

    def check(self, discriminator: nn.Module) -> None:
        if not getattr(discriminator, "decoders", None):
            raise ValueError("SelfSupervision needs decoders: take fastgan.Discriminator with decoders: true")

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        return sum(F.mse_loss(made.float(), image) for made, image in discriminator.reconstructions(real))
