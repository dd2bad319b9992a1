"""R3GAN (Huang et al., arXiv:2501.05441): residual networks without normalization, for `RelativisticPairing`, R1, R2.

Nothing but the start holds the activations together: the last convolution of each block starts at zero. The stage at
the lowest resolution runs in float32 under autocast, as in the source.
"""

from math import gcd, sqrt

import torch
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.resampling import Downsample, Upsample


def normal(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Weights from N(0, gain^2 / number of inputs), bias 0."""
    nn.init.normal_(module.weight, std=gain / sqrt(module.weight[0].numel()))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def conv1(num_inputs: int, num_outputs: int) -> nn.Module:
    """A 1x1 convolution outside of the blocks; without a bias, as everything there."""
    return normal(nn.Conv2d(num_inputs, num_outputs, 1, bias=False))


class Block(nn.Module):
    """x + conv1-leaky-conv3-leaky-conv1 through twice the width, the conv3 in groups (ResNeXt, arXiv:1611.05431).

    Args:
        width: channels, in and out.
        group_size: channels of a group of the conv3; where it does not divide 2 * width, the largest divisor that
            both have.
        num_blocks: of the whole network: the more there are, the smaller each starts (Fixup, arXiv:1901.09321).
    """

    def __init__(self, width: int, group_size: int, num_blocks: int):
        super().__init__()
        hidden = 2 * width
        gain = nn.init.calculate_gain("leaky_relu", 0.2) * num_blocks**-0.25
        grouped = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // gcd(hidden, group_size))
        self.residual = nn.Sequential(
            normal(nn.Conv2d(width, hidden, 1), gain),
            nn.LeakyReLU(0.2),
            normal(grouped, gain),
            nn.LeakyReLU(0.2),
            normal(nn.Conv2d(hidden, width, 1, bias=False), gain=0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def stage_widths(width: int, num_blocks: int, num_wide: int) -> list[int]:
    """Channels of each stage, from the grid to the image: `num_wide` times `width`, then halved from stage to stage."""
    if num_wide < 1:
        raise ValueError(f"num_wide must be at least 1, not {num_wide}: the stage at the grid has the full width")
    return [max(1, width // 2 ** max(0, i + 1 - num_wide)) for i in range(num_blocks + 1)]


class Generator(base.Generator):
    """A learned grid scaled by the latent, then residual blocks at each resolution; no tanh.

    In training the images are not bounded; in evaluation they are cut to [-1, 1].

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of the latent, and of the embedding of a class beside it.
        width: channels of the stages near the grid; 768 has 21 million parameters at 32x32, 64 is one for a CPU.
        num_blocks: number of up-samplings by 2, from the grid to the image; by default as many as leave 4x4 or more.
        stage_depth: residual blocks at each resolution.
        group_size: channels in a group of the grouped convolutions: 16, and 32 for ImageNet in the paper.
        num_wide: stages of full width, at least 1; after them each has half of the one before.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, or without a stage of full width.
    """

    channels_last = False  # forward and backward on a CPU take 1.15 to 1.21 times as long in it

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 64,
        width: int = 768,
        num_blocks: int | None = None,
        stage_depth: int = 2,
        group_size: int = 16,
        num_wide: int = 4,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        widths = stage_widths(width, self.num_blocks, num_wide)
        self.grid = nn.Parameter(torch.randn(width, *layers.grid_size(image_size, self.num_blocks)))
        if num_classes > 0:
            self.embed = layers.Embedding(num_classes, latent_dim)
            nn.init.normal_(self.embed.weight, std=num_classes**-0.5)
        self.linear = normal(nn.Linear(latent_dim * (2 if num_classes > 0 else 1), width, bias=False))
        self.stages = nn.ModuleList()
        for i, stage_width in enumerate(widths):
            stage = nn.Sequential()
            if i > 0:
                if stage_width != widths[i - 1]:
                    stage.append(conv1(widths[i - 1], stage_width))
                stage.append(Upsample())
            stage.extend(Block(stage_width, group_size, stage_depth * len(widths)) for _ in range(stage_depth))
            self.stages.append(stage)
        self.to_pixels = conv1(widths[-1], channels)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim], labels [B] -> images [B, channels, H, W], in evaluation in [-1, 1]."""
        self.check_condition(condition)
        if condition is not None:
            z = torch.cat([z, self.embed(condition)], 1)
        first, *others = self.stages
        with layers.float32(z):
            x = first(self.grid * self.linear(z)[:, :, None, None])
        for stage in others:
            x = stage(x)
        images = self.to_pixels(x)
        return images if self.training else images.clamp(-1, 1)


class Discriminator(base.Discriminator):
    """The mirror image of the generator; classes by an inner product.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: channels of the stages near the grid.
        num_blocks: number of down-samplings by 2; by default as many as leave 4x4 or more.
        stage_depth: residual blocks at each resolution.
        group_size: channels in a group of the grouped convolutions.
        num_wide: stages of full width, at least 1; before them each has half of the one after it.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, or without a stage of full width.
    """

    channels_last = False  # forward and backward on a CPU take 1.15 to 1.21 times as long in it

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 768,
        num_blocks: int | None = None,
        stage_depth: int = 2,
        group_size: int = 16,
        num_wide: int = 4,
    ):
        super().__init__(image_size, channels, num_classes)
        self.independent = True
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        grid = layers.grid_size(image_size, self.num_blocks)
        widths = stage_widths(width, self.num_blocks, num_wide)[::-1]
        self.stages = nn.ModuleList()
        for i, stage_width in enumerate(widths):
            stage = nn.Sequential(
                *(Block(stage_width, group_size, stage_depth * len(widths)) for _ in range(stage_depth))
            )
            if i < self.num_blocks:
                stage.append(Downsample())
                if stage_width != widths[i + 1]:
                    stage.append(conv1(stage_width, widths[i + 1]))
            self.stages.append(stage)
        self.from_pixels = conv1(channels, widths[0])
        self.pool = normal(nn.Conv2d(width, width, grid, groups=width, bias=False))
        self.linear = normal(nn.Linear(width, width if num_classes > 0 else 1, bias=False))
        if num_classes > 0:
            self.embed = nn.Embedding(num_classes, width)
            nn.init.normal_(self.embed.weight, std=(num_classes * width) ** -0.5)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        self.check_condition(condition)
        *others, last = self.stages
        x = self.from_pixels(x)
        for stage in others:
            x = stage(x)
        with layers.float32(x):
            h = self.linear(self.pool(last(x.to(self.linear.weight.dtype))).flatten(1))
        return h.squeeze(1) if condition is None else (h * self.embed(condition)).sum(1)
