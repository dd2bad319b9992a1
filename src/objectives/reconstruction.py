"""An encoder beside the two players: a variational autoencoder whose decoder is the generator."""

from typing import Any

import torch
from torch import Tensor, nn

from src.engine.schedules import Schedule
from src.networks.fully_convolutional import Encoder, Generator
from src.objectives.terms import GeneratorRegularizer


class Reconstruction(GeneratorRegularizer):
    """Reconstructs real images through the generator; VAE/GAN, Larsen et al., arXiv:1512.09300.

    The negative evidence lower bound (Eq. 3 of arXiv:1312.6114) a pixel, of an encoder E(x) -> mean, log variance over
    the noise: ||x - G(z)||^2 / (2 sigma^2) with z drawn from E(x), and the Kullback-Leibler divergence of E(x) from
    N(0, 1). Unlike in VAE/GAN the squares are those of pixels, not of the discriminator's features, and reconstructions
    are no further fakes.

    Where the data holds measurements y, E reads y, and G(z) is measured as y was, with its mask
    (`Measurement.repeat`), so that only what was observed is compared.

    Args:
        weight: factor of the term, 0 or more.
        every: evaluate at every this many steps, 1 or more, rescaled by it.
        sigma: standard deviation of the pixels about their reconstruction, in units of [-1, 1], more than 0.
        width: channels after the encoder's first convolution; they double with each further one.

    Raises:
        ValueError: for a negative weight, `every` below 1, or a sigma that is not positive.
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, sigma: float = 0.3, width: int = 64):
        super().__init__(weight, every)
        if sigma <= 0:
            raise ValueError(f"sigma of Reconstruction must be more than 0, not {sigma}")
        self.sigma, self.width = sigma, width

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not isinstance(generator, Generator):
            raise ValueError(
                "Reconstruction needs noise in the shape of an image: take src.networks.fully_convolutional.Generator"
            )
        latent_dim = generator.latent_shape[0]
        self.encoder = Encoder(generator.channels, latent_dim, self.width, generator.num_blocks, generator.grid)

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        mean, log_variance = self.encoder(real)
        posterior = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        again = model.measurement.repeat(model.generator(posterior, condition), real)
        errors = (real - again).square().sum() / (2 * self.sigma**2)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2
        return (errors + divergence) / real.numel()
