"""What is done to real and generated images alike before the discriminator sees them."""

import torch
from torch import Tensor, nn


class Augmentation(nn.Module):
    """A differentiable transformation of image batches, the same in law for real and generated ones.

    `forward(images [B, C, H, W]) -> [B, C, H, W]`. Random numbers come from PyTorch's streams, which the training step
    starts anew at every step; a state that changes with training is a buffer, so that it lies in the checkpoint.
    """

    def advance(self, step: int) -> None:
        """Told the number of the step, from 0, before it."""

    def observe(self, real_logits: Tensor) -> None:
        """Told D(x) [B] of the real images, without a graph, at every discriminator update."""


class InstanceNoise(Augmentation):
    """Gaussian noise that fades: x + sigma * n, so that real and generated images always overlap.

    Source: arXiv:1701.04862, Section 3; arXiv:1610.04490.

    Args:
        sigma: standard deviation at step 0, in units of the images in [-1, 1].
        steps: at which it has fallen to 0, linearly.

    Raises:
        ValueError: for a negative sigma, or fewer than 1 step.
    """

    def __init__(self, sigma: float = 0.5, steps: int = 10000):
        super().__init__()
        if sigma < 0 or steps < 1:
            raise ValueError(f"InstanceNoise needs sigma >= 0 and steps >= 1, got {sigma} and {steps}")
        self.sigma, self.steps = sigma, steps
        self.now = sigma

    def advance(self, step: int) -> None:
        self.now = self.sigma * max(0.0, 1 - step / self.steps)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.now * torch.randn_like(images) if self.now else images
