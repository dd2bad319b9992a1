"""Fully convolutional networks: the same weights make, and judge, images of any size."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.dcgan import initialize, initialize_by_inputs


class Generator(base.Generator):
    """Noise in the shape of a small image, then transposed convolutions; classes by conditional batch normalization.

    Without a linear layer no weight knows the size of the image: built for another one, the generator takes the weights
    of this one (`predict --data.image_size [64,96]`). A pixel depends on the noise around it alone, so that a larger
    image shows more of the same texture, not the same objects larger.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: channels of the noise, whose height and width are those of the image divided by 2**num_blocks.
        width: channels of the feature map before the image; they double with each block towards the noise.
        num_blocks: number of up-samplings by 2; 4 make the widths 1024, 512, 256, 128, 64;
            by default as many as leave 4x4 or more.
        max_width: where the doubling ends.
        grid: side of the square of the coarsest feature map that each noise vector makes: 7 makes 28x28 of one.

    Raises:
        ValueError: if grid * 2**num_blocks does not divide the height and the width.

    Source: noise without a fully connected layer as in arXiv:1611.08207, the other layers as in arXiv:1511.06434.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 64,
        width: int = 64,
        num_blocks: int | None = None,
        max_width: int = 1024,
        grid: int = 1,
    ):
        num_blocks = layers.choose_blocks(num_blocks, image_size)
        shape = noise_size(image_size, num_blocks, grid)
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim, *shape))
        self.num_blocks, self.grid = num_blocks, grid
        widths = layers.doubled(width, num_blocks + 1, max_width)[::-1]
        if grid == 1:
            self.stem = nn.Conv2d(latent_dim, widths[0], 3, padding=1, bias=False)
        else:
            self.stem = nn.ConvTranspose2d(latent_dim, widths[0], grid, stride=grid, bias=False)
        self.norms = nn.ModuleList(layers.ConditionalBatchNorm2d(w, num_classes) for w in widths)
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(w, half, 4, stride=2, padding=1, bias=False) for w, half in pairwise(widths)
        )
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        self.apply(initialize)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noise [B, latent_dim, h, w] of any h and w, labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        x = self.stem(z)
        for norm, layer in zip(self.norms, [*self.upsamplings, self.to_image], strict=True):
            x = layer(F.relu(norm(x, condition)))
        return torch.tanh(x)


class Discriminator(base.Discriminator):
    """Strided convolutions to a map of logits, one a patch, whose mean is the logit of the image (arXiv:1611.07004).

    Classes by projection (arXiv:1802.05637) in every patch.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: channels after the first convolution; they double with each further one.
        num_blocks: number of down-samplings by 2; 4 make the widths 64, 128, 256, 512, 1024;
            by default as many as leave 4x4 or more.
        batch_norm: after every convolution but the first; not under a gradient penalty.
        spectral_norm: on every layer (arXiv:1802.05957), which is meant for batch_norm false.
        max_width: where the doubling ends.
        grid: side of the square of the last feature map that each logit judges: 7 makes one logit of 28x28.
        mask: for images that miss pixels, which are mid grey: show D as well which ones, and what is around them.

    Raises:
        ValueError: if grid * 2**num_blocks does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 64,
        num_blocks: int | None = None,
        batch_norm: bool = False,
        spectral_norm: bool = False,
        max_width: int = 1024,
        grid: int = 1,
        mask: bool = False,
    ):
        super().__init__(image_size, channels, num_classes)
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        noise_size(image_size, self.num_blocks, grid)
        self.mask = mask
        widths = layers.doubled(width, self.num_blocks + 1, max_width)
        self.features = downsampling(2 * channels + 1 if mask else channels, widths, batch_norm)
        if grid > 1:
            self.features.extend([nn.Conv2d(widths[-1], widths[-1], grid, stride=grid), nn.LeakyReLU(0.2)])
        self.head = layers.ProjectionHead(widths[-1], num_classes)
        self.apply(initialize if batch_norm or spectral_norm else initialize_by_inputs)
        self.independent = not (batch_norm or spectral_norm)
        if spectral_norm:
            layers.add_spectral_norm(self)

    def patch_logits(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B, h, w] of overlapping patches."""
        self.check_condition(condition)
        h = self.features(with_surroundings(x) if self.mask else x)
        batch_size, _, *grid = h.shape
        if condition is not None:
            condition = condition.repeat_interleave(grid[0] * grid[1])
        return self.head(h.permute(0, 2, 3, 1).flatten(0, 2), condition).view(batch_size, *grid)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        return self.patch_logits(x, condition).mean((1, 2))


class Encoder(nn.Module):
    """Images to a normal distribution over image-shaped noise: the approximate posterior of a variational autoencoder.

    Args:
        channels: of the images.
        latent_dim: channels of the noise.
        width: channels after the first convolution; they double with each further one.
        num_blocks: number of down-samplings by 2, as many as the generator has up-samplings.
        grid: as of the generator.
    """

    def __init__(self, channels: int, latent_dim: int, width: int, num_blocks: int, grid: int = 1):
        super().__init__()
        widths = layers.doubled(width, num_blocks + 1)
        self.features = downsampling(channels, widths, batch_norm=True)
        self.head = nn.Conv2d(widths[-1], 2 * latent_dim, grid, stride=grid)
        self.apply(initialize)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, channels, H, W] -> mean and logarithm of the variance, both [B, latent_dim, h, w]."""
        mean, log_variance = self.head(self.features(x)).chunk(2, dim=1)
        return mean, log_variance


def with_surroundings(x: Tensor, radius: int = 7) -> Tensor:
    """Beside images [B, C, H, W] which pixels are not hidden, and the images filled in: [B, 2 C + 1, H, W].

    A hidden pixel is exactly 0 in all channels. It is filled in with the mean of those that are seen around it,
    weighted by the inverse cube of their distance (Shepard, ACM National Conference 1968, pp. 517-524): a linear map of
    what is seen. Convolutions that see zeros instead take long to learn what to make of every pattern of them.

    Args:
        x: images.
        radius: of the square around a pixel, in pixels; 0 where nothing is seen in it.
    """
    seen = (x != 0).any(1, keepdim=True).to(x.dtype)
    squares = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype).square()
    distances = squares[:, None] + squares  # squared
    weights = torch.where(distances > 0, distances.clamp(min=1) ** -1.5, 0)[None, None]
    shown = x * seen  # so that hidden pixels have no gradient
    sums, total = (F.conv2d(t.flatten(0, 1)[:, None], weights, padding=radius).view(t.shape) for t in (shown, seen))
    return torch.cat([shown, seen, torch.where(seen > 0, shown, sums / total.clamp(min=1e-6))], 1)


def noise_size(image_size: tuple[int, int], num_blocks: int, grid: int) -> tuple[int, int]:
    """Height and width of the noise of an image; arguments as of `Generator`."""
    height, width = layers.grid_size(image_size, num_blocks)
    if grid < 1 or height % grid or width % grid:
        raise ValueError(
            f"grid {grid} does not divide the feature map of {height}x{width} that num_blocks {num_blocks} leaves of"
            f" {image_size[0]}x{image_size[1]}: set it to 1, or to another divisor"
        )
    return height // grid, width // grid


def downsampling(channels: int, widths: list[int], batch_norm: bool) -> nn.Sequential:
    """A 3x3 convolution to the first width, then one of stride 2 to each further one.

    Args:
        channels: of the images.
        widths: channels of the feature maps.
        batch_norm: after every convolution but the first.
    """
    features = nn.Sequential(nn.Conv2d(channels, widths[0], 3, padding=1), nn.LeakyReLU(0.2))
    for num_inputs, num_outputs in pairwise(widths):
        features.append(nn.Conv2d(num_inputs, num_outputs, 4, stride=2, padding=1, bias=not batch_norm))
        if batch_norm:
            features.append(nn.BatchNorm2d(num_outputs))
        features.append(nn.LeakyReLU(0.2))
    return features
