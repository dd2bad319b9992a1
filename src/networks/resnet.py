"""Residual networks of SNGAN (Miyato et al., arXiv:1802.05957, Table 4) and, without spectral norm, of WGAN-GP."""

from collections.abc import Callable
from functools import partial
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers


def xavier(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Xavier uniform weights, bias 0; `gain` is sqrt(2) in residual branches, which end in a ReLU, and 1 elsewhere."""
    nn.init.xavier_uniform_(module.weight, gain)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)
    return module


def conv3(num_inputs: int, num_outputs: int, bias: bool = True) -> nn.Module:
    """The 3x3 convolution of a residual branch."""
    return xavier(nn.Conv2d(num_inputs, num_outputs, 3, padding=1, bias=bias), gain=sqrt(2))


class UpBlock(nn.Module):
    """BN-ReLU-upsample-conv3-BN-ReLU-conv3 beside an up-sampled 1x1 shortcut.

    No convolution has a bias: batch normalization, here or at the end of the network, would take it away again.

    Args:
        num_inputs: channels in.
        width: channels out.
        norm: makes a batch normalization `(x, condition) -> x` of a number of channels.
    """

    def __init__(self, num_inputs: int, width: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.norm1 = norm(num_inputs)
        self.conv1 = conv3(num_inputs, width, bias=False)
        self.norm2 = norm(width)
        self.conv2 = conv3(width, width, bias=False)
        self.shortcut = xavier(nn.Conv2d(num_inputs, width, 1, bias=False))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.conv1(layers.upsample(F.relu(self.norm1(x, condition))))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        # A 1x1 convolution and nearest up-sampling commute; in this order it costs a quarter.
        return h + layers.upsample(self.shortcut(x))


class Generator(base.Generator):
    """A linear layer to a small grid, then residual up blocks; classes by conditional batch normalization.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of the latent.
        width: channels of every block.
        num_blocks: number of up-samplings by 2, from the grid to the image; by default as many as leave 4x4 or more.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 128,
        width: int = 256,
        num_blocks: int | None = None,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        height_0, width_0 = layers.grid_size(image_size, self.num_blocks)
        self.grid = (width, height_0, width_0)
        self.linear = xavier(nn.Linear(latent_dim, width * height_0 * width_0))
        norm = partial(layers.ConditionalBatchNorm2d, num_classes=num_classes)
        self.blocks = nn.ModuleList(UpBlock(width, width, norm) for _ in range(self.num_blocks))
        self.norm = nn.BatchNorm2d(width)
        self.to_pixels = xavier(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim], labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        x = self.linear(z).unflatten(1, self.grid)
        for block in self.blocks:
            x = block(x, condition)
        return torch.tanh(self.to_pixels(F.relu(self.norm(x))))


class DiscriminatorBlock(nn.Module):
    """[ReLU]-conv3-ReLU-conv3 beside a shortcut, both averaged over 2x2 pixels where the block goes down.

    Args:
        num_inputs: channels in.
        width: channels out.
        down: halve the height and the width.
        first: no ReLU before the image.
    """

    def __init__(self, num_inputs: int, width: int, down: bool, first: bool = False):
        super().__init__()
        self.first = first
        self.conv1 = conv3(num_inputs, width)
        self.conv2 = conv3(width, width)
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.shortcut = xavier(nn.Conv2d(num_inputs, width, 1)) if down or num_inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h))
        # A 1x1 convolution and the average commute; in this order it costs a quarter.
        return self.pool(h) + self.shortcut(self.pool(x))


class Discriminator(base.Discriminator):
    """Residual blocks, sum over the grid, a linear layer; classes by projection (arXiv:1802.05637).

    Args:
        image_size: height and width in pixels, multiples of 2**num_down.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: channels of every block.
        num_down: number of blocks that down-sample by 2; by default as many as leave 4x4 or more.
        num_plain: number of blocks after them that keep the grid.
        spectral_norm: on every layer; false makes the critic of WGAN-GP (arXiv:1704.00028), which has no norm.

    Raises:
        ValueError: if 2**num_down does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 128,
        num_down: int | None = None,
        num_plain: int = 2,
        spectral_norm: bool = True,
    ):
        super().__init__(image_size, channels, num_classes)
        self.num_down = layers.choose_blocks(num_down, image_size)
        layers.grid_size(image_size, self.num_down, option="num_down")
        self.blocks = nn.Sequential(
            DiscriminatorBlock(channels, width, down=True, first=True),
            *(DiscriminatorBlock(width, width, down=True) for _ in range(self.num_down - 1)),
            *(DiscriminatorBlock(width, width, down=False) for _ in range(num_plain)),
        )
        self.head = layers.ProjectionHead(width, num_classes)
        xavier(self.head.psi)
        if num_classes > 0:
            xavier(self.head.embed)
        self.independent = not spectral_norm
        if spectral_norm:
            layers.add_spectral_norm(self)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        self.check_condition(condition)
        h = F.relu(self.blocks(x)).sum(dim=(2, 3))
        return self.head(h, condition)
