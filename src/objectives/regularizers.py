"""Penalties on the discriminator, added to its loss by the training step."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.batch_norm import has_batch_norm
from src.engine.descriptions import Part
from src.engine.schedules import Schedule, extremes
from src.objectives.piecewise import PiecewiseLinear


class Regularizer(Part, ABC):
    """A penalty on the discriminator; the training step adds weight * every * penalty to its loss.

    Args:
        weight: factor of the penalty, 0 or more; a number, or a schedule over the images seen.
        every: evaluate at every this many discriminator updates, 1 or more; the expected objective stays the same,
            since the training step multiplies by it (lazy regularization, arXiv:1912.04958, Section 3.1).

    Attributes:
        gradient_penalty: differentiates the discriminator with respect to its input.
        before_augmentation: takes images that are not augmented, and a discriminator that augments them.
        second_output: trains the classes that the discriminator finds, beside its logits.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    gradient_penalty: bool = False
    before_augmentation: bool = False
    second_output: bool = False

    def __init__(self, weight: float | Schedule, every: int = 1):
        check_schedule(self, weight, every)
        self.weight = weight
        self.every = every

    def check(self, discriminator: nn.Module) -> None:
        """Refuse a discriminator that the penalty is not defined for.

        Raises:
            ValueError: for a gradient penalty on batch normalization, where a logit depends on the other images, so
                that the gradient of the sum of the logits is no longer the gradient of each (arXiv:1704.00028,
                Section 4).
        """
        if self.gradient_penalty and has_batch_norm(discriminator):
            raise ValueError(
                f"{type(self).__name__} needs the gradient of each logit by its own image, and batch normalization in "
                "the discriminator mixes them: set batch_norm to false, or remove the penalty"
            )

    @abstractmethod
    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Tensor | None) -> Tensor:
        """The penalty, without `weight` and `every`.

        Args:
            discriminator: D, or with `before_augmentation` an `Augmented` D.
            real: images [B, C, H, W], augmented unless `before_augmentation`.
            fake: images [B, C, H, W], measured, and augmented unless `before_augmentation`.
            condition: of both batches, or None.

        Returns:
            Scalar with a graph to the parameters of D.
        """


def check_schedule(part: Any, weight: float | Schedule, every: int) -> None:
    if extremes(weight)[0] < 0:
        raise ValueError(f"weight of {type(part).__name__} must be 0 or more, not {extremes(weight)[0]}")
    if every < 1:
        raise ValueError(f"every of {type(part).__name__} must be 1 or more, not {every}")


class Augmented:
    """The discriminator and what is done to images before it, as one function.

    Args:
        augment: images [B, C, H, W] to images, drawn anew at each call.
        discriminator: D.
    """

    def __init__(self, augment: nn.Module, discriminator: nn.Module):
        self.augment, self.discriminator = augment, discriminator

    def forward(self, images: Tensor, condition: Any) -> Tensor:
        return self.discriminator.forward(self.augment(images), condition)


def input_gradient(discriminator: Any, images: Tensor, condition: Tensor | None) -> Tensor:
    """grad_x D(x) of each image, [B, C * H * W], itself differentiable by the parameters of D.

    Never in half precision: the squares of small gradients underflow there. Float32 may be TF32 on a GPU, as elsewhere.
    """
    with torch.autocast(device_type=images.device.type, enabled=False):
        x = images.detach().float().requires_grad_(True)
        # `forward` instead of a call: after Module.compile() a call is compiled, without double backward.
        with PiecewiseLinear():
            logits = discriminator.forward(x, condition)
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return gradient.flatten(1)


class R1(Regularizer):
    """1/2 E ||grad_x D(x)||^2 over real x; Mescheder et al., arXiv:1801.04406, Eq. 9, where `weight` is gamma.

    Where images are augmented, x is the image before that, as in StyleGAN2-ADA and R3GAN. StyleGAN2 gives the penalty
    an optimizer step of its own; here it is a term of the update that is due: Adam sees one sum, and one step less.

    Args:
        weight: gamma, 0 or more; 0.0002 * H * W / batch_size is a start (NVlabs/stylegan2-ada-pytorch).
        every: evaluate at every this many discriminator updates, rescaled by it; 16 in StyleGAN2.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    gradient_penalty = True
    before_augmentation = True

    def penalty(self, discriminator: Any, real: Tensor, fake: Tensor, condition: Tensor | None) -> Tensor:
        return input_gradient(discriminator, real, condition).square().sum(1).mean() / 2


class R2(R1):
    """1/2 E ||grad_x D(x)||^2 over fake x; Mescheder et al., arXiv:1801.04406, Eq. 10, where `weight` is gamma.

    With augmentation as `R1` is.

    Args:
        weight: gamma, 0 or more; beside R1 in R3GAN (arXiv:2501.05441), with the same gamma.
        every: evaluate at every this many discriminator updates, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    def penalty(self, discriminator: Any, real: Tensor, fake: Tensor, condition: Tensor | None) -> Tensor:
        return super().penalty(discriminator, fake, real, condition)


class GradientPenalty(Regularizer):
    """E (||grad_x D(x)|| - 1)^2 between real and fake images; WGAN-GP, Gulrajani et al., arXiv:1704.00028, Eq. 3.

    Where images are augmented, x lies between augmented ones: the slope that is to be 1 is that of D alone.

    Args:
        weight: lambda, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    gradient_penalty = True
    center = 1.0

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1):
        super().__init__(weight, every)

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Tensor | None) -> Tensor:
        real, fake = real.detach().float(), fake.detach().float()
        alpha = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)  # one per image: Algorithm 1
        between = alpha * real + (1 - alpha) * fake
        # vector_norm has the gradient 0 at 0, where sqrt(sum of squares) has NaN.
        norm = torch.linalg.vector_norm(input_gradient(discriminator, between, condition), dim=1)
        return (norm - self.center).square().mean()


class ZeroCenteredGradientPenalty(GradientPenalty):
    """E ||grad_x D(x)||^2 between real and fake images; Thanh-Tung et al., arXiv:1902.03984.

    `GradientPenalty` with a slope of 0 as its aim instead of 1: for losses that tell real from fake, where a slope that
    stays keeps the players circling.

    Args:
        weight: lambda, 0 or more.
        every: evaluate at every this many discriminator updates, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    center = 0.0
