"""The original GAN as dense layers (Goodfellow et al., arXiv:1406.2661), for images of any size."""

from math import prod

import torch
from torch import Tensor, nn

from src.networks import base, layers


class Generator(base.Generator):
    """Dense generator; a class label enters as an embedding beside the latent (Mirza & Osindero, arXiv:1411.1784).

    Args:
        image_size: height and width in pixels, any.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of the latent, and of the class embedding.
        hidden: widths of the hidden layers, from the latent to the image.
        batch_norm: batch normalization in the hidden layers.
        dropout: probability of dropping a hidden unit, 0 to 1.

    Raises:
        ValueError: for facts that no image has, see `Network`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 100,
        hidden: tuple[int, ...] = (128,),
        batch_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        num_inputs = latent_dim
        if num_classes > 0:
            self.embed = layers.Embedding(num_classes, latent_dim)
            num_inputs += latent_dim
        widths = (num_inputs, *hidden)
        self.hidden = layers.dense(widths, nn.ReLU(), batch_norm, dropout)
        self.to_pixels = nn.Linear(widths[-1], channels * prod(image_size))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim], labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        if condition is not None:
            z = torch.cat([z, self.embed(condition)], dim=1)
        pixels = self.to_pixels(self.hidden(z))
        return torch.tanh(pixels.unflatten(1, (self.channels, *self.image_size)))


class Discriminator(base.Discriminator):
    """Dense discriminator; a class label enters by projection (arXiv:1802.05637).

    Args:
        image_size: height and width in pixels, any.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        hidden: widths of the hidden layers, from the image to the logit.
        batch_norm: batch normalization in the hidden layers; not under a gradient penalty.
        dropout: probability of dropping a hidden unit, 0 to 1.
        leak: slope of the LeakyReLU for negative inputs.

    Raises:
        ValueError: for facts that no image has, see `Network`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        hidden: tuple[int, ...] = (128,),
        batch_norm: bool = False,
        dropout: float = 0.0,
        leak: float = 0.2,
    ):
        super().__init__(image_size, channels, num_classes)
        widths = (channels * prod(image_size), *hidden)
        self.independent = not batch_norm
        self.hidden = layers.dense(widths, nn.LeakyReLU(leak), batch_norm, dropout)
        self.head = layers.ProjectionHead(widths[-1], num_classes)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        self.check_condition(condition)
        return self.head(self.hidden(x.flatten(1)), condition)
