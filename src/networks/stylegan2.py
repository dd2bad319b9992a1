"""StyleGAN2 (Karras et al., arXiv:1912.04958) in the form of StyleGAN2-ADA (arXiv:2006.06676).

Under autocast the mapping, the styles and what they demodulate by are computed in float32, as are the sum of the images
and the statistics of the minibatch.
"""

from itertools import pairwise
from math import prod, sqrt

import torch
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.equalized import Conv, Linear, ModulatedConv, leaky, normalized
from src.networks.resampling import Downsample, Upsample


class Layer(nn.Module):
    """A modulated convolution, noise, a bias, leaky ReLU.

    Args:
        num_inputs: channels in.
        num_outputs: channels out.
        style_dim: length of w.
        noise: whether there is any; its strength is learned, from 0.
        up: double height and width.
    """

    def __init__(self, num_inputs: int, num_outputs: int, style_dim: int, noise: bool, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(num_inputs, num_outputs, 3, style_dim, up=up)
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """Feature maps [B, num_inputs, H, W], styles [B, style_dim], noise [B, 1, H, W] -> [B, num_outputs, H, W]."""
        x = self.conv(x, w)
        if noise is not None:
            x = x + (self.strength * noise).to(x.dtype)
        return leaky(x + self.bias[:, None, None].to(x.dtype))


class Mapping(nn.Module):
    """Latents and classes to styles: dense layers with a hundredth of the learning rate.

    Args:
        latent_dim: length of the latent; 0: classes alone.
        style_dim: length of w.
        num_classes: of the condition; 0: unconditional.
        num_layers: 2, or 8 in the paper.
    """

    gathered: tuple[str, ...] = ()

    def __init__(self, latent_dim: int, style_dim: int, num_classes: int, num_layers: int):
        super().__init__()
        self.num_classes = num_classes
        self.embed = Linear(num_classes, style_dim) if num_classes > 0 else None
        widths = [latent_dim + (style_dim if num_classes > 0 else 0)] + [style_dim] * num_layers
        self.layers = nn.ModuleList(Linear(*pair, rate=0.01) for pair in pairwise(widths))
        if latent_dim > 0:
            self.register_buffer("average", torch.zeros(style_dim))
            self.gathered = ("average",)

    def forward(self, z: Tensor | None, condition: Tensor | None) -> Tensor:
        """Latents [B, latent_dim] or None, labels [B] or None -> styles [B, style_dim], in float32."""
        with layers.float32(self.layers[0].weight):
            inputs = [] if z is None else [normalized(z)]
            if condition is not None:
                shares = layers.shares(condition, self.num_classes).to(self.embed.weight.dtype)
                inputs.append(normalized(self.embed(shares)))
            w = torch.cat(inputs, 1)
            for layer in self.layers:
                w = leaky(layer(w))
        if z is not None and self.training:
            with torch.no_grad():
                self.average.lerp_(w.mean(0), 0.005)
        return w


def stage_widths(width: int, channel_base: int, num_blocks: int) -> list[int]:
    """Channels of each stage, from the grid to the image: `channel_base` / (4, 8, 16, ...), up to `width`."""
    widths = [min(channel_base // 2 ** (i + 2), width) for i in range(num_blocks + 1)]
    if widths[-1] < 1:
        raise ValueError(f"channel_base {channel_base} leaves no channels after {num_blocks} blocks: raise it")
    return widths


class Generator(base.Generator):
    """A constant grid, convolved under styles and noise, with an image at each resolution; the images are summed.

    The noise maps are the last part of the latent. So a sample follows from its latent alone, which follows from the
    seed and its number, in training as in evaluation, whatever its batch, its process or the device. In training the
    images are not bounded; in evaluation they are cut to [-1, 1].

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of z and of the style w.
        width: channels of the feature maps, at most.
        channel_base: channels times resolution, at most: 16384 in StyleGAN2-ADA below 512 pixels, 32768 in the paper.
        num_blocks: number of up-samplings by 2, from the grid to the image; by default as many as leave 4x4 or more.
        num_mapping: layers from z to w; 8 in the paper.
        noise: whether feature maps get noise.
        style_mixing: probability, in training, that a sample takes its styles from two latents (0.9 in the paper).
        truncation: in evaluation w is so far from the mean w as this share of its distance; 1 leaves it, less makes
            samples more typical and more alike.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, or for a share outside [0, 1].
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 512,
        width: int = 512,
        channel_base: int = 16384,
        num_blocks: int | None = None,
        num_mapping: int = 2,
        noise: bool = True,
        style_mixing: float = 0.0,
        truncation: float = 1.0,
    ):
        for name, share in (("style_mixing", style_mixing), ("truncation", truncation)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        num_blocks = layers.choose_blocks(num_blocks, image_size)
        height_0, width_0 = layers.grid_size(image_size, num_blocks)
        grids = [(height_0 * 2**i, width_0 * 2**i) for i in range(num_blocks + 1)]
        shapes = [grids[0], *(grid for grid in grids[1:] for _ in range(2))]  # of the noise of each layer
        total = sum(map(prod, shapes)) if noise else 0
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim + total,))
        self.num_blocks, self.latent_dim = num_blocks, latent_dim
        self.noise_shapes = shapes if noise else []
        self.style_mixing, self.truncation = style_mixing, truncation
        self.num_styles = 2 * num_blocks + 2  # of the layers and of the last image
        widths = stage_widths(width, channel_base, num_blocks)
        self.mapping = Mapping(latent_dim, latent_dim, num_classes, num_mapping)
        self.grid = nn.Parameter(torch.randn(widths[0], *grids[0]))
        self.layers = nn.ModuleList([Layer(widths[0], widths[0], latent_dim, noise)])
        for before, after in pairwise(widths):
            self.layers.append(Layer(before, after, latent_dim, noise, up=True))
            self.layers.append(Layer(after, after, latent_dim, noise))
        self.to_pixels = nn.ModuleList(ModulatedConv(w, channels, 1, latent_dim, demodulate=False) for w in widths)
        self.biases = nn.ParameterList(torch.zeros(channels) for _ in widths)
        self.upsample = Upsample()

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim + noise], labels [B] -> images [B, channels, H, W], in evaluation in [-1, 1]."""
        self.check_condition(condition)
        return self.from_styles(self.styles(z, condition), z)

    def from_styles(self, styles: Tensor, z: Tensor) -> Tensor:
        """Styles [B, num_styles, latent_dim], and latents of which the noise alone is taken -> images, as above."""
        maps = z[:, self.latent_dim :].split([prod(shape) for shape in self.noise_shapes], 1)
        maps = [values.unflatten(1, (1, *shape)) for values, shape in zip(maps, self.noise_shapes, strict=True)]
        x, images = self.grid.expand(z.shape[0], -1, -1, -1), None
        for i, layer in enumerate(self.layers):
            x = layer(x, styles[:, i], maps[i] if maps else None)
            if i % 2 == 0:  # the last layer of its resolution; its image has the style of the layer after it
                here = self.to_pixels[i // 2](x, styles[:, i + 1]) + self.biases[i // 2][:, None, None]
                with layers.float32(x):
                    images = here if images is None else here + self.upsample(images)
        return images if self.training else images.clamp(-1, 1)

    def to_w(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Latents [B, latent_dim + noise], labels [B] -> the style w [B, latent_dim], in evaluation truncated."""
        w = self.mapping(z[:, : self.latent_dim], condition)
        return self.mapping.average.lerp(w, self.truncation) if not self.training and self.truncation < 1 else w

    def styles(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """The style of each layer and of the last image, [B, num_styles, latent_dim]."""
        w, number = self.to_w(z, condition), self.num_styles
        if not self.training or self.style_mixing == 0:
            return w[:, None].expand(-1, number, -1)
        # From the streams that each training step starts anew. Before the layer `first` it is w, from there another.
        other = self.mapping(torch.randn_like(w), condition)
        first = torch.randint(1, number, (len(z), 1), device=z.device)
        first = torch.where(torch.rand_like(w[:, :1]) < self.style_mixing, first, number)
        return torch.stack([torch.where(i < first, w, other) for i in range(number)], 1)


def minibatch_deviation(x: Tensor, group_size: int) -> Tensor:
    """Adds a channel: the deviation of each feature over a group of images, averaged (arXiv:1710.10196, Section 3).

    Image n belongs to group n modulo the number of groups. A group has the largest size up to `group_size` that divides
    the batch, or rather this process's part of it, or with `accumulate` the part of that.

    Args:
        x: [B, C, H, W].
        group_size: images of a group, at most.

    Returns:
        [B, C + 1, H, W].
    """
    size = next(size for size in range(min(group_size, len(x)), 0, -1) if len(x) % size == 0)
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (size, -1))
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, deviation.to(x.dtype).repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


class DownBlock(nn.Module):
    """Two convolutions, the second of which halves height and width, beside a 1x1 shortcut where it is residual."""

    def __init__(self, num_inputs: int, num_outputs: int, residual: bool):
        super().__init__()
        self.conv1 = Conv(num_inputs, num_inputs, 3)
        self.conv2 = Conv(num_inputs, num_outputs, 3, down=True)
        self.shortcut = nn.Sequential(Downsample(), Conv(num_inputs, num_outputs, 1, bias=False)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(leaky(self.conv1(x)))
        if self.shortcut is None:
            return leaky(h)
        return leaky(h, sqrt(0.5)) + self.shortcut(x) * sqrt(0.5)


class Discriminator(base.Discriminator):
    """Blurred strided convolutions, statistics of the minibatch, two dense layers; classes by an inner product.

    A logit depends on the other images of its batch: see `minibatch_deviation`.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: channels of the feature maps, at most.
        channel_base: channels times resolution, at most.
        num_blocks: number of down-samplings by 2; by default as many as leave 4x4 or more.
        residual: with shortcuts; the CIFAR-10 network of the paper has none.
        group_size: images whose deviation is an input, at most.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, or for an empty group.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 512,
        channel_base: int = 16384,
        num_blocks: int | None = None,
        residual: bool = True,
        group_size: int = 4,
    ):
        super().__init__(image_size, channels, num_classes)
        if group_size < 1:
            raise ValueError(f"group_size must be at least 1, not {group_size}")
        self.group_size = group_size
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        grid = layers.grid_size(image_size, self.num_blocks)
        widths = stage_widths(width, channel_base, self.num_blocks)[::-1]
        self.from_pixels = Conv(channels, widths[0], 1)
        self.blocks = nn.Sequential(*(DownBlock(*pair, residual) for pair in pairwise(widths)))
        self.conv = Conv(widths[-1] + 1, widths[-1], 3)
        self.hidden = Linear(widths[-1] * prod(grid), widths[-1])
        self.linear = Linear(widths[-1], widths[-1] if num_classes > 0 else 1)
        self.mapping = Mapping(0, widths[-1], num_classes, num_layers=8) if num_classes > 0 else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        self.check_condition(condition)
        x = self.blocks(leaky(self.from_pixels(x)))
        x = leaky(self.conv(minibatch_deviation(x, self.group_size)))
        h = self.linear(leaky(self.hidden(x.flatten(1))))
        if condition is None:
            return h.squeeze(1)
        return (h * self.mapping(None, condition)).sum(1) / sqrt(h.shape[1])
