"""Deep convolutional GAN (Radford et al., arXiv:1511.06434)."""

from functools import partial
from itertools import pairwise, zip_longest
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers


def initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02), biases 0 (arXiv:1511.06434, Section 4); gains of batch normalization from N(1, 0.02).

    For `Module.apply`. The gains of a conditional batch normalization keep their 1.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
    elif isinstance(module, layers.ProjectionHead) and hasattr(module, "embed"):
        nn.init.normal_(module.embed.weight, 0.0, 0.02)


def initialize_by_inputs(module: nn.Module) -> None:
    """Weights as large as keeps the activations through leaky ReLUs (He et al., arXiv:1502.01852, Eq. 15), biases 0.

    For `Module.apply`. Where nothing is normalized nothing else keeps them: from N(0, 0.02) a discriminator starts
    nearly blind, since they shrink from layer to layer.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, 0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    else:
        initialize(module)


class NearestConv2d(nn.Conv2d):
    """Nearest up-sampling by 2 and a 3x3 convolution: no place of the result is touched more often than another.

    Computed as one transposed convolution whose 4x4 weights are sums of the 3x3 ones: 4 products in place of 9.

    Args:
        num_inputs: channels in.
        num_outputs: channels out.
        bias: whether there is one.
    """

    def __init__(self, num_inputs: int, num_outputs: int, bias: bool = True):
        super().__init__(num_inputs, num_outputs, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        # In this order of dimensions the result is in channels_last without a copy, and what follows is, too.
        weight = spread(spread(self.weight.permute(1, 2, 3, 0), 1), 2).permute(0, 3, 1, 2)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)


def spread(weight: Tensor, dim: int) -> Tensor:
    """Three weights along `dim` -> the four of a transposed convolution by which they act on each pixel twice."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


class Generator(base.Generator):
    """A linear layer to a small grid, then up-sampling convolutions; classes by conditional batch normalization.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of the latent.
        width: channels of the feature map before the image; they double with each block towards the latent.
        num_blocks: number of up-samplings by 2, from the grid to the image; by default as many as leave 4x4 or more.
        max_width: where the doubling ends.
        upsampling: "transposed" convolutions as published, or "nearest" and a convolution, see `NearestConv2d`.
        self_modulation: the latent also decides gains and biases after each normalization (arXiv:1810.01365), here by
            one linear layer, which starts near none.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 100,
        width: int = 64,
        num_blocks: int | None = None,
        max_width: int = 1024,
        upsampling: Literal["transposed", "nearest"] = "transposed",
        self_modulation: bool = False,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        height_0, width_0 = layers.grid_size(image_size, self.num_blocks)
        widths = layers.doubled(width, self.num_blocks, max_width)[::-1]
        self.grid = (widths[0], height_0, width_0)
        self.linear = nn.Linear(latent_dim, widths[0] * height_0 * width_0)
        transposed = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)
        upsample = transposed if upsampling == "transposed" else NearestConv2d
        self.norms = nn.ModuleList(layers.ConditionalBatchNorm2d(w, num_classes) for w in widths)
        self.upsamplings = nn.ModuleList(
            # A bias before batch normalization has no effect.
            [upsample(w, half, bias=False) for w, half in pairwise(widths)] + [upsample(width, channels)]
        )
        modulated = widths if self_modulation else []
        self.modulations = nn.ModuleList(nn.Linear(latent_dim, 2 * w) for w in modulated)
        self.apply(initialize)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim], labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        x = layers.ordered_as(self.upsamplings[0].weight, self.linear(z).unflatten(1, self.grid))
        for norm, modulation, upsampling in zip_longest(self.norms, self.modulations, self.upsamplings):
            x = norm(x, condition)
            if modulation is not None:
                gain, bias = modulation(z)[:, :, None, None].chunk(2, 1)
                x = x * (1 + gain) + bias
            x = upsampling(F.relu(x))
        return torch.tanh(x)


class Discriminator(layers.SecondOutput, base.Discriminator):
    """Strided convolutions, then linear layers over the last grid; classes by projection (arXiv:1802.05637).

    Without batch norm, Adam at 2e-4 with momentum 0.5 stands still for over 500 steps: the gradient that G is given is
    one direction for all samples (mean cosine between two of them 0.98, 8x8 digits), so they become one picture. Batch
    norm keeps them apart (0.5) by dividing each channel by its deviation, not by centring. Without: 1e-3, momentum 0.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: channels after the first convolution; they double with each further one.
        num_blocks: number of down-samplings by 2; by default as many as leave 4x4 or more.
        batch_norm: after every convolution but the first; not under a gradient penalty.
        spectral_norm: on every layer (arXiv:1802.05957), which is meant for batch_norm false.
        dropout: probability of dropping a feature after each layer but the last, 0 to 1.
        hidden: widths of dense layers between the last grid and the logit; none in DCGAN.
        max_width: where the doubling ends.
        classes: "projection", or "classifier" or "proxies" for a second output, see `biggan.Discriminator`.
        proxy_dim: length of the embeddings and proxies of the latter.
        initialization: of the weights: `initialize`, or `initialize_by_inputs`, which is meant for batch_norm false.

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
        batch_norm: bool = True,
        spectral_norm: bool = False,
        dropout: float = 0.0,
        hidden: tuple[int, ...] = (),
        max_width: int = 1024,
        classes: layers.Classes = "projection",
        proxy_dim: int = 512,
        initialization: Literal["published", "by_inputs"] = "published",
    ):
        super().__init__(image_size, channels, num_classes)
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        height_0, width_0 = layers.grid_size(image_size, self.num_blocks)
        widths = [channels, *layers.doubled(width, self.num_blocks, max_width)]
        self.features = nn.Sequential()
        for i, (num_inputs, num_outputs) in enumerate(pairwise(widths)):
            normalized = batch_norm and i > 0
            self.features.append(nn.Conv2d(num_inputs, num_outputs, 4, stride=2, padding=1, bias=not normalized))
            if normalized:
                self.features.append(nn.BatchNorm2d(num_outputs))
            elif i == self.num_blocks - 1:
                self.features.append(nn.Flatten())  # behind an activation its gradient is in another order than the map
            self.features.append(nn.LeakyReLU(0.2))
            if dropout > 0:
                self.features.append(nn.Dropout(dropout))
        dense = (widths[-1] * height_0 * width_0, *hidden)
        self.hidden = layers.dense(dense, nn.LeakyReLU(0.2), batch_norm=False, dropout=dropout)
        self.head = layers.class_head(dense[-1], num_classes, classes, proxy_dim)
        self.apply(initialize)
        if initialization == "by_inputs":
            self.apply(initialize_by_inputs)
        self.independent = not (batch_norm or spectral_norm)
        if spectral_norm:
            layers.add_spectral_norm(self)

    def pooled(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] -> features [B, widths of the last layer]."""
        return self.hidden(self.features(x).flatten(1))
