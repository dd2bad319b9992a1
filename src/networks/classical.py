"""Generative models from before GANs, fitted by maximum likelihood before the first step: what a GAN has to beat."""

from abc import abstractmethod
from itertools import product
from math import isqrt, prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from src.images.pixels import from_uint8
from src.networks import base

LARGEST = 4096  # pixels of a full covariance: 64 MB a component


class Classical(base.Generator):
    """A generator that is fitted class by class, then fixed: the discriminator trains alone, as its critic.

    A subclass implements `fit_class` and `draw`. Its weights are parameters without a gradient, so that the optimizer
    has something to hold and a checkpoint keeps them. A class without training images gives one flat image.

    Args:
        image_size: height and width in pixels.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_shape: of one latent; a sample is a deterministic function of it.
    """

    def weight(self, *shape: int, value: float = 0.0) -> nn.Parameter:
        return nn.Parameter(torch.full((max(self.num_classes, 1), *shape), value), requires_grad=False)

    def fit(self, data: Dataset) -> None:
        images, labels = data[list(range(len(data)))]
        for k in range(max(self.num_classes, 1)):
            chosen = images if labels is None else images[labels == k]
            if len(chosen):
                self.fit_class(k, from_uint8(chosen) if chosen.dtype == torch.uint8 else chosen)

    @abstractmethod
    def fit_class(self, k: int, x: Tensor) -> None:
        """Sets the weights of class k from its images [N, C, H, W] in [-1, 1]."""

    @abstractmethod
    def draw(self, z: Tensor, k: Tensor) -> Tensor:
        """Latents [B, *latent_shape], classes [B] -> pixels [B, C * H * W], cut to [-1, 1] by `forward`."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, *latent_shape], labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        k = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device) if condition is None else condition
        return self.draw(z, k).clamp(-1, 1).view(-1, *self.output_shape)


class Bernoulli(Classical):
    """Independent pixels: each climbs its grey levels by Bernoulli trials, "brighter still?", until one fails.

    With two levels that is the Bernoulli model of images binarised at mid-grey. With more, no grey level is lost to
    a threshold: the trials can express any distribution of one pixel, and their maximum likelihood is its histogram.

    Args:
        image_size: height and width in pixels.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        levels: equally spaced grey levels from -1 to 1, to which the images are rounded, 2 to 256.

    Raises:
        ValueError: for another number of levels, or facts that no image has.
    """

    def __init__(self, image_size: tuple[int, int], channels: int, num_classes: int = 0, levels: int = 2):
        super().__init__(image_size, channels, num_classes, latent_shape=(channels * prod(image_size),))
        if not 2 <= levels <= 256:
            raise ValueError(f"Bernoulli levels must be 2 to 256, got {levels}")
        self.top = levels - 1
        self.cumulative = self.weight(self.top, *self.latent_shape, value=1.0)  # P(level <= l) for l below the top

    def fit_class(self, k: int, x: Tensor) -> None:
        levels = ((x + 1) / 2 * self.top).round().flatten(1)
        self.cumulative[k] = torch.stack([(levels <= level).float().mean(0) for level in range(self.top)])

    def draw(self, z: Tensor, k: Tensor) -> Tensor:
        levels = (uniform(z)[:, None] > self.cumulative[k]).sum(1)
        return levels * (2 / self.top) - 1


class Gaussian(Classical):
    """A Gaussian with full covariance over all pixels, or a mixture of several (scikit-learn's EM).

    The likelihood is that of unbounded pixels; samples are cut to [-1, 1].

    Args:
        image_size: height and width in pixels, at most 4,096 of them over all channels.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        components: Gaussians of a class; fewer where it has fewer images.
        ridge: variance added to every pixel, above 0; 0.001 is that of rounding to the 17 levels of the digits.

    Raises:
        ValueError: for too many pixels, options out of range, or facts that no image has.
    """

    def __init__(
        self, image_size: tuple[int, int], channels: int, num_classes: int = 0, components: int = 1, ridge: float = 1e-3
    ):
        dim = channels * prod(image_size)
        super().__init__(image_size, channels, num_classes, latent_shape=(dim + 1,))
        if components < 1 or ridge <= 0:
            raise ValueError(f"Gaussian needs components >= 1 and ridge > 0, got {components} and {ridge}")
        if dim > LARGEST:
            side = isqrt(LARGEST // channels)
            raise ValueError(f"a full covariance of {dim} pixels is too large: set --data.image_size {side} or less")
        self.components, self.ridge = components, ridge
        self.cumulative = self.weight(components, value=1.0)  # sums of the weights of the mixture
        self.means = self.weight(components, dim)
        self.factors = self.weight(components, dim, dim)  # L of covariance = L L'

    def fit_class(self, k: int, x: Tensor) -> None:
        from sklearn.mixture import GaussianMixture

        number = min(self.components, len(x))
        values = x.flatten(1).double().numpy()
        if len(x) == 1:  # of which scikit-learn wants two
            values = values.repeat(2, 0)
        mixture = GaussianMixture(number, reg_covar=self.ridge, random_state=0).fit(values)
        self.cumulative[k, : number - 1] = torch.from_numpy(mixture.weights_.cumsum())[:-1]
        self.means[k, :number] = torch.from_numpy(mixture.means_)
        self.factors[k, :number] = torch.from_numpy(np.linalg.cholesky(mixture.covariances_))

    def draw(self, z: Tensor, k: Tensor) -> Tensor:
        component = (uniform(z[:, :1]) > self.cumulative[k]).sum(1)
        # One by one: a sample must not depend on the others of its batch, and the matrices are not copied.
        return torch.stack(
            [
                torch.addmv(self.means[i, j], self.factors[i, j], noise)
                for i, j, noise in zip(k.tolist(), component.tolist(), z[:, 1:], strict=True)
            ]
        )


class Markov(Classical):
    """Pixel by pixel, left to right and top to bottom, each from those near it that came before, and Gaussian noise.

    p(x_t | context) = N(W_t [context, 1], S_t) with W_t of its own for every position t and class, by ridge
    regression. Contexts are real pixels when it is fitted and drawn ones, cut to [-1, 1], when it samples.

    Args:
        image_size: height and width in pixels.
        channels: of the image; those of one pixel are drawn together.
        num_classes: of the condition; 0: unconditional.
        reach: pixels of the context to the left and right, and rows above; 1 or more.
        ridge: penalty of the regression, and variance added to the noise of every pixel, above 0.

    Raises:
        ValueError: for options out of range, or facts that no image has.
    """

    def __init__(
        self, image_size: tuple[int, int], channels: int, num_classes: int = 0, reach: int = 2, ridge: float = 1e-3
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(prod(image_size), channels))
        if reach < 1 or ridge <= 0:
            raise ValueError(f"Markov needs reach >= 1 and ridge > 0, got {reach} and {ridge}")
        self.reach, self.ridge = reach, ridge
        self.before = reach * (2 * reach + 1) + reach  # pixels of a context
        self.maps = self.weight(prod(image_size), channels * self.before + 1, channels)
        self.factors = self.weight(prod(image_size), channels, channels)

    @property
    def positions(self) -> product:
        return product(*map(range, self.image_size))

    def padded(self, x: Tensor) -> Tensor:
        return functional.pad(x, (self.reach, self.reach, self.reach, 0))

    def context(self, canvas: Tensor, y: int, x: int) -> Tensor:
        """[B, C * before + 1]: what precedes the pixel (y, x) in a padded image, and 1."""
        window = canvas[:, :, y : y + self.reach + 1, x : x + 2 * self.reach + 1].flatten(2)[:, :, : self.before]
        return functional.pad(window.flatten(1), (0, 1), value=1.0)

    def fit_class(self, k: int, x: Tensor) -> None:
        x = x.double()
        canvas, penalty = self.padded(x), self.ridge * torch.eye(self.maps.shape[2], dtype=x.dtype)
        penalty[-1, -1] = 0.0  # of the constant
        for t, (row, column) in enumerate(self.positions):
            context, pixel = self.context(canvas, row, column), x[:, :, row, column]
            fitted = torch.linalg.solve(context.T @ context / len(x) + penalty, context.T @ pixel / len(x))
            residual = pixel - context @ fitted
            noise = residual.T @ residual / len(x) + self.ridge * torch.eye(self.channels, dtype=x.dtype)
            self.maps[k, t], self.factors[k, t] = fitted, torch.linalg.cholesky(noise)

    def draw(self, z: Tensor, k: Tensor) -> Tensor:
        canvas = self.padded(z.new_zeros(z.shape[0], *self.output_shape))
        for t, (row, column) in enumerate(self.positions):
            mean = torch.einsum("bi,bij->bj", self.context(canvas, row, column), self.maps[k, t])
            noise = torch.einsum("bij,bj->bi", self.factors[k, t], z[:, t])
            canvas[:, :, row + self.reach, column + self.reach] = (mean + noise).clamp(-1, 1)
        return canvas[:, :, self.reach :, self.reach : -self.reach].flatten(1)


def uniform(z: Tensor) -> Tensor:
    """Standard normal noise -> uniform in [0, 1]."""
    return torch.special.ndtr(z)
