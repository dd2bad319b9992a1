"""The augmentation pipeline of ADA (arXiv:2006.06676, Appendix B): pixel moves, geometry and colours, each at random.

All that moves pixels is one matrix an image, applied once; so is all that changes colours.
"""

import math
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from src.engine.schedules import Schedule, extremes
from src.images.augment import Adaptive, Augmentation

# The wavelet sym6, of sum 1: up-sampling by 2 with it, then down-sampling with its mirror image, is the identity.
SYM6 = (
    0.0108923, 0.0024683, -0.0834316, -0.0341616, 0.3472289, 0.5569464,
    0.2389522, -0.0513625, -0.0148919, 0.0316253, 0.0012500, -0.0055159,
)  # fmt: skip
REACH = 3  # pixels beyond the border that its up-sampling reads


def stacked(*rows: tuple[Tensor | float, ...]) -> Tensor:
    """A matrix an image [B, n, n] from numbers and tensors [B], at least one of them a tensor."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    entries = [entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for row in rows for entry in row]
    return torch.stack(entries, 1).unflatten(1, (len(rows), -1))


def translation(x: Tensor, y: Tensor) -> Tensor:
    return stacked((1.0, 0.0, x), (0.0, 1.0, y), (0.0, 0.0, 1.0))


def scaling(x: Tensor, y: Tensor) -> Tensor:
    return stacked((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0))


def rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return stacked((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


def brightness(shift: Tensor) -> Tensor:
    return stacked((1.0, 0.0, 0.0, shift), (0.0, 1.0, 0.0, shift), (0.0, 0.0, 1.0, shift), (0.0, 0.0, 0.0, 1.0))


def gains(grey: Tensor, color: Tensor) -> Tensor:
    """Scales what is grey in a colour, its mean, and what is not: equal gains are contrast, the latter saturation."""
    off = (grey - color) / 3
    on = off + color
    return stacked((on, off, off, 0.0), (off, on, off, 0.0), (off, off, on, 0.0), (0.0, 0.0, 0.0, 1.0))


def hue(angle: Tensor) -> Tensor:
    """Turns colours about the axis of grey (Rodrigues' formula)."""
    c, s = angle.cos(), angle.sin() / math.sqrt(3)
    on, left, right = (1 + 2 * c) / 3, (1 - c) / 3 - s, (1 - c) / 3 + s
    return stacked((on, left, right, 0.0), (right, on, left, 0.0), (left, right, on, 0.0), (0.0, 0.0, 0.0, 1.0))


def sampled(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values [B, C, h, w] at pixels x, y [B, h, w]; 0 outside.

    `grid_sample` has no second derivative in older versions of PyTorch. This is linear in the image, so has them all.
    """
    height, width = images.shape[2:]
    flat = F.pad(images, (1, 2, 1, 2)).flatten(2)
    x, y = x.clamp(-1, width) + 1, y.clamp(-1, height) + 1
    corner = (y.long() * (width + 3) + x.long()).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    right, down = ((t - t.floor()).flatten(1)[:, None] for t in (x, y))
    top, bottom = (
        torch.lerp(flat.gather(2, corner + below), flat.gather(2, corner + below + 1), right)
        for below in (0, width + 3)
    )
    return torch.lerp(top, bottom, down).unflatten(2, x.shape[1:])


def filtered(convolution: Callable, images: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Every channel through a filter along one axis, with stride 2."""
    shape, stride = ((1, 1, -1, 1), (2, 1)) if axis == 2 else ((1, 1, 1, -1), (1, 2))
    channels = images.flatten(0, 1)[:, None]  # as images of one: twice as fast on a CPU as a depthwise convolution
    return convolution(channels, taps.view(shape), stride=stride).squeeze(1).unflatten(0, images.shape[:2])


def warped(images: Tensor, inverse: Tensor) -> Tensor:
    """Images whose pixel at p, from the centre in pixels (right, down), is that of `images` at inverse p.

    Sampled at twice the resolution between two filters (Appendix B), so that nothing is aliased. Beyond its border an
    image is mirrored, and 0 where it would have to be mirrored twice, as in NVlabs/stylegan2-ada-pytorch.

    Args:
        images: [B, C, H, W], H and W at least 4.
        inverse: affine maps [B, 3, 3].

    Raises:
        ValueError: for smaller images.
    """
    height, width = images.shape[2:]
    if min(height, width) <= REACH:
        raise ValueError(f"ADA cannot warp images of {height}x{width}: set its moves and geometry to 0")
    centre = images.new_tensor([(width - 1) / 2, (height - 1) / 2])

    corners = torch.cartesian_prod(*(images.new_tensor([-c, c]) for c in centre.tolist()), images.new_ones(1)).T
    beyond = (inverse[:, :2] @ corners).abs().amax((0, 2)) - centre  # right, down; filters of both resamplings reach
    right, down = (int((beyond + 2 * REACH).ceil()[i].clamp(REACH, size - 1)) for i, size in enumerate((width, height)))
    images = F.pad(images, (right, right, down, down), mode="reflect")

    # The fine pixel k lies at the pixel k / 2, and is filtered into pixels from fine pixels k - 5 to k + 6.
    taps = images.new_tensor(SYM6)
    for axis in (2, 3):
        images = filtered(F.conv_transpose2d, images, 2 * taps, axis).narrow(axis, 5, 2 * images.shape[axis])
    x, y = (torch.arange(-5, 2 * size + 6).to(centre) / 2 for size in (width, height))
    y, x = torch.meshgrid(y - centre[1], x - centre[0], indexing="ij")
    there = (inverse[:, :2] @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)).unflatten(2, x.shape)
    there = there + (centre + images.new_tensor([right, down]))[:, None, None]
    images = sampled(images, *(2 * there).unbind(1))
    for axis in (2, 3):
        images = filtered(F.conv2d, images, taps, axis)
    return images


def recolored(images: Tensor, matrices: Tensor) -> Tensor:
    """Images of 3 or 4 channels with their colours through affine maps [B, 4, 4]; alpha stays.

    Other channels are grey: each goes through what the map does to grey.
    """
    if images.shape[1] not in (3, 4):
        gain, shift = matrices[:, :3, :3].sum((1, 2)) / 3, matrices[:, :3, 3].mean(1)
        return images * gain[:, None, None, None] + shift[:, None, None, None]
    colors = torch.einsum("bij,bjhw->bihw", matrices[:, :3, :3], images[:, :3]) + matrices[:, :3, 3, None, None]
    return torch.cat([colors, images[:, 3:]], 1)


class Pipeline(Augmentation):
    """ADA's `bgc`: flips, quarter turns, shifts, scales, rotations, colours; each hits an image with a probability.

    In this order: flip, quarter turn, shift by whole pixels up to an eighth; scale 2^N(0, 0.2), rotation, stretch
    2^N(0, 0.2), rotation, shift N(0, 1/8); brightness +N(0, 0.2), contrast 2^N(0, 0.5), luma flip, hue, saturation
    2^N(0, 1). Hue and saturation leave grey images as they are.

    Args:
        strength: the probability, 0 to 1, or a schedule over the images seen; above 0.8, G may learn to augment.
        moves: multiple of it for flips, quarter turns and shifts by whole pixels, 0 to 1.
        geometry: multiple for scales, rotations, stretches and shifts.
        colors: multiple for colours; 0.5 in R3GAN (arXiv:2501.05441).

    Raises:
        ValueError: for a number outside [0, 1].

    Source: arXiv:2006.06676, Appendix B; ranges and order of NVlabs/stylegan2-ada-pytorch.
    """

    def __init__(
        self, strength: float | Schedule = 0.5, moves: float = 1.0, geometry: float = 1.0, colors: float = 1.0
    ):
        super().__init__()
        for name, number in {"strength": strength, "moves": moves, "geometry": geometry, "colors": colors}.items():
            for value in extremes(number):
                if not 0 <= value <= 1:
                    raise ValueError(f"{name} of {type(self).__name__} must be in [0, 1], got {value}")
        self.strength, self.moves, self.geometry, self.colors = strength, moves, geometry, colors

    def forward(self, images: Tensor) -> Tensor:
        return self.transformed(images, self.strength)

    def transformed(self, images: Tensor, strength: Tensor | float) -> Tensor:
        """Images [B, C, H, W], each operation drawn anew for each of them with the probability `strength`."""
        with torch.autocast(images.device.type, enabled=False):
            result = images.float() if images.dtype.itemsize < 4 else images
            if self.moves or self.geometry:
                result = warped(result, self.inverse(result, strength))
            if self.colors:
                result = recolored(result, self.color_map(result, strength))
        return result.to(images.dtype)

    def inverse(self, images: Tensor, strength: Tensor | float) -> Tensor:
        """Maps [B, 3, 3] from the pixels of the result to those of the image.

        An operation and its inverse have the same law here, so that the first ones stand at the left.
        """
        draw, (height, width) = Draw(images), images.shape[2:]
        moves, geometry = strength * self.moves, strength * self.geometry
        turned = 1 - (1 - geometry) ** 0.5  # of both rotations: one of them, or both, with the probability `geometry`
        scale, stretch = (0.2 * draw.normal()).exp2(), (0.2 * draw.normal()).exp2()
        steps = (
            draw.gated(moves, scaling(draw.sign(), draw.ones)),
            draw.gated(moves, rotation(math.pi / 2 * draw.uniform(0, 4).floor())),
            draw.gated(moves, translation(*((side / 8 * draw.uniform(-1, 1)).round() for side in (width, height)))),
            draw.gated(geometry, scaling(scale, scale)),
            draw.gated(turned, rotation(draw.uniform(-math.pi, math.pi))),
            draw.gated(geometry, scaling(stretch, 1 / stretch)),
            draw.gated(turned, rotation(draw.uniform(-math.pi, math.pi))),
            draw.gated(geometry, translation(*(side / 8 * draw.normal() for side in (width, height)))),
        )
        return reduce(torch.matmul, steps)

    def color_map(self, images: Tensor, strength: Tensor | float) -> Tensor:
        """Affine maps of colours [B, 4, 4]; the last one stands at the left."""
        draw, colors = Draw(images), strength * self.colors
        contrast = (0.5 * draw.normal()).exp2()
        steps = (
            draw.gated(colors, gains(draw.ones, draw.normal().exp2())),
            draw.gated(colors, hue(draw.uniform(-math.pi, math.pi))),
            draw.gated(colors, gains(draw.sign(), draw.ones)),
            draw.gated(colors, gains(contrast, contrast)),
            draw.gated(colors, brightness(0.2 * draw.normal())),
        )
        return reduce(torch.matmul, steps)


class Draw:
    """Random numbers [B], one for each image."""

    def __init__(self, images: Tensor):
        self.ones = images.new_ones(len(images))

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand_like(self.ones)

    def normal(self) -> Tensor:
        return torch.randn_like(self.ones)

    def sign(self) -> Tensor:
        return 1 - 2 * self.uniform(0, 2).floor()

    def gated(self, probability: Tensor | float, matrices: Tensor) -> Tensor:
        """Each matrix [B, n, n] with this probability, or else the identity."""
        hit = torch.rand_like(self.ones) < probability
        return torch.where(hit[:, None, None], matrices, torch.eye(matrices.shape[1]).to(matrices))


class AdaptivePipeline(Adaptive):
    """ADA: `Pipeline` with a strength that follows the overfitting of the discriminator, as in `Adaptive`.

    Args:
        target: of the mean sign of D(x) over real images, -1 to 1.
        images: real images in which the strength can go from 0 to 1; 100,000 for fine-tuning.
        limit: of the strength; above 0.8, G may learn to augment. The authors' code has none, and colours leaked.
        moves: multiple of the strength for flips, quarter turns and shifts by whole pixels, 0 to 1.
        geometry: multiple for scales, rotations, stretches and shifts.
        colors: multiple for colours.

    Raises:
        ValueError: for a number out of range.

    Source: arXiv:2006.06676.
    """

    def __init__(
        self,
        target: float = 0.6,
        images: int = 500000,
        limit: float = 0.8,
        moves: float = 1.0,
        geometry: float = 1.0,
        colors: float = 1.0,
    ):
        super().__init__([Pipeline(1.0, moves, geometry, colors)], target, images, limit)

    def forward(self, images: Tensor) -> Tensor:
        return self.augmentations[0].transformed(images, self.strength)
