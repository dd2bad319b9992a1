"""Fully convolutional networks: the same weights make, and judge, images of any size."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.dcgan import initialize


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

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width.

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
    ):
        num_blocks = layers.choose_blocks(num_blocks, image_size)
        grid = layers.grid_size(image_size, num_blocks)
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim, *grid))
        self.num_blocks = num_blocks
        widths = layers.doubled(width, num_blocks + 1, max_width)[::-1]
        self.stem = nn.Conv2d(latent_dim, widths[0], 3, padding=1, bias=False)
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

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width.
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
    ):
        super().__init__(image_size, channels, num_classes)
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        layers.grid_size(image_size, self.num_blocks)
        widths = layers.doubled(width, self.num_blocks + 1, max_width)
        self.features = downsampling(channels, widths, batch_norm)
        self.head = layers.ProjectionHead(widths[-1], num_classes)
        self.apply(initialize)
        self.independent = not (batch_norm or spectral_norm)
        if spectral_norm:
            layers.add_spectral_norm(self)

    def patch_logits(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B, h, w] of overlapping patches."""
        self.check_condition(condition)
        h = self.features(x)
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
    """

    def __init__(self, channels: int, latent_dim: int, width: int, num_blocks: int):
        super().__init__()
        widths = layers.doubled(width, num_blocks + 1)
        self.features = downsampling(channels, widths, batch_norm=True)
        self.head = nn.Conv2d(widths[-1], 2 * latent_dim, 1)
        self.apply(initialize)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, channels, H, W] -> mean and logarithm of the variance, both [B, latent_dim, h, w]."""
        mean, log_variance = self.head(self.features(x)).chunk(2, dim=1)
        return mean, log_variance


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
