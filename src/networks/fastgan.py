"""FastGAN (Liu et al., arXiv:2101.04775): for few images, of 64 pixels and more."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.dcgan import initialize

MULTIPLES = (16, 8, 4, 2, 2, 1, 0.5, 0.25, 0.125)  # of `width`, from the grid of 4 pixels to 1,024
SMALL = 4  # halvings of the small image at most: 128 pixels where the last map has 8


def widths_of(width: int, number: int) -> list[int]:
    """`number` widths from the grid on."""
    return [max(int(width * multiple), 1) for multiple in MULTIPLES[:number]]


class Noise(nn.Module):
    """Adds noise to each place, the same to all channels, by a strength that is learned and starts at 0.

    In training it is drawn anew; in evaluation it is that of the size [1, 1, H, W], so that an image is a function of
    its latent.

    Args:
        size: height and width of the feature map.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("fixed", torch.randn(1, 1, *size))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x[:, :1]) if self.training else self.fixed.to(x.dtype)
        return x + self.strength.to(x.dtype) * noise


class UpBlock(nn.Module):
    """Upsample-conv3-BN-GLU, and at every second size noise, and conv3-noise-BN-GLU beside.

    Args:
        num_inputs: channels in.
        width: channels out.
        num_classes: of the condition; 0: unconditional.
        size: height and width of the result.
        double: whether there are noise and a second convolution.
    """

    def __init__(self, num_inputs: int, width: int, num_classes: int, size: tuple[int, int], double: bool):
        super().__init__()
        inputs = (num_inputs, width) if double else (num_inputs,)
        self.convolutions = nn.ModuleList(nn.Conv2d(n, 2 * width, 3, padding=1, bias=False) for n in inputs)
        self.noises = nn.ModuleList(Noise(size) if double else nn.Identity() for _ in inputs)
        self.norms = nn.ModuleList(layers.ConditionalBatchNorm2d(2 * width, num_classes) for _ in inputs)
        self.gate = layers.Gate()

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = layers.upsample(x)
        for convolution, noise, norm in zip(self.convolutions, self.noises, self.norms, strict=True):
            x = self.gate(norm(noise(convolution(x)), condition))
        return x


class Excitation(nn.Sequential):
    """Skip-layer excitation: the channels of one map weighted by what another shows; arXiv:2101.04775, Section 3.1.

    Args:
        num_inputs: channels of the map that is looked at.
        width: channels of the map that is weighted.
    """

    def __init__(self, num_inputs: int, width: int):
        super().__init__(
            nn.AdaptiveAvgPool2d(4),
            nn.Conv2d(num_inputs, width, 4, bias=False),
            nn.SiLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, seen: Tensor, weighted: Tensor) -> Tensor:
        return weighted * super().forward(seen)


class Generator(base.Generator):
    """Up-sampling blocks with gated linear units, whose large maps are weighted by maps 16 times smaller.

    Below 64 pixels there is none of the latter. As images are in [-1, 1] here, all sizes end in tanh, the published
    ones only that of 1,024. The second, small image of the published generator is missing: the discriminator scales
    generated images down as it does real ones. Classes by conditional batch normalization, as in projected GANs.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of the latent.
        width: channels of the map of 128 pixels: 16 times as many at 4 pixels, an eighth at 1,024.
        num_blocks: number of up-samplings by 2, up to 8; by default as many as leave 4x4 or more.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, or for more than 8 blocks.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 256,
        width: int = 64,
        num_blocks: int | None = None,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        height_0, width_0 = layers.grid_size(image_size, self.num_blocks)
        check_blocks(self.num_blocks)
        widths = widths_of(width, self.num_blocks + 1)
        self.grid = (2 * widths[0], height_0, width_0)
        # A transposed convolution of a single pixel is a linear layer.
        self.linear = nn.Linear(latent_dim, 2 * widths[0] * height_0 * width_0, bias=False)
        self.norm = layers.ConditionalBatchNorm2d(2 * widths[0], num_classes)
        self.gate = layers.Gate()
        self.blocks = nn.ModuleList(
            UpBlock(n, m, num_classes, (height_0 * 2**i, width_0 * 2**i), double=i % 2 == 1)
            for i, (n, m) in enumerate(pairwise(widths), start=1)
        )
        self.excitations = nn.ModuleList(Excitation(*pair) for pair in zip(widths[:4], widths[4:], strict=False))
        self.to_pixels = nn.Conv2d(widths[-1], channels, 3, padding=1, bias=False)
        self.apply(initialize)
        layers.add_spectral_norm(self, embeddings=False)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim], labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        maps = [self.gate(self.norm(self.linear(z).unflatten(1, self.grid), condition))]
        for i, block in enumerate(self.blocks, start=1):
            x = block(maps[-1], condition)
            maps.append(self.excitations[i - 4](maps[i - 4], x) if 4 <= i < 8 else x)
        return torch.tanh(self.to_pixels(maps[-1]))


def check_blocks(num_blocks: int) -> None:
    if num_blocks >= len(MULTIPLES):
        raise ValueError(f"FastGAN has at most {len(MULTIPLES) - 1} blocks, for 1,024 pixels, not {num_blocks}")


def normalized(*modules: nn.Module) -> nn.Sequential:
    """A convolution, batch normalization and a leaky ReLU, after what stands before the convolution."""
    return nn.Sequential(*modules, nn.BatchNorm2d(modules[-1].out_channels), nn.LeakyReLU(0.2))


def halving(num_inputs: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(num_inputs, width, 4, stride=2, padding=1, bias=False)


class DownBlock(nn.Module):
    """The mean of two ways down: conv4 and conv3, and an average of 2x2 pixels and conv1, each normalized.

    Args:
        num_inputs: channels in.
        width: channels out.
    """

    def __init__(self, num_inputs: int, width: int):
        super().__init__()
        self.main = nn.Sequential(
            normalized(halving(num_inputs, width)), normalized(nn.Conv2d(width, width, 3, padding=1, bias=False))
        )
        self.direct = normalized(nn.AvgPool2d(2), nn.Conv2d(num_inputs, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(x)) / 2


class Decoder(nn.Sequential):
    """Feature maps, scaled to a grid, to images in [-1, 1] that are 2**number times as large as the grid.

    Args:
        num_inputs: channels of the map.
        channels: of the image.
        width: channels of the second map; twice as many in the first, half as many in the last.
        grid: height and width.
        number: of up-samplings by 2.
    """

    def __init__(self, num_inputs: int, channels: int, width: int, grid: tuple[int, int], number: int):
        widths = [num_inputs, *(2 * width, width, width, max(width // 2, 1))[SMALL - number :]]
        super().__init__(nn.AdaptiveAvgPool2d(grid))
        for n, m in pairwise(widths):
            self.extend([nn.Upsample(scale_factor=2), nn.Conv2d(n, 2 * m, 3, padding=1, bias=False)])
            self.extend([nn.BatchNorm2d(2 * m), layers.Gate()])
        self.extend([nn.Conv2d(widths[-1], channels, 3, padding=1, bias=False), nn.Tanh()])


class Discriminator(base.Discriminator):
    """Judges patches of an image and of a small copy of it, and, with `decoders`, shows what it knows of real images.

    Its logit is the mean over all patches; the published loss is a mean over patches with random margins, of which the
    author says that they add nothing. Classes by projection at each patch, as in projected GANs.

    Args:
        image_size: height and width in pixels; its halvings leave grids of 8x8 or more, 4x4 below 64 pixels.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: an eighth of the channels of the last map, which double with each halving.
        num_blocks: of the generator, up to 8, by default as many as leave 4x4 or more; one less halvings here.
        decoders: reconstruct real images, for `SelfSupervision`.

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, for more than 8 blocks, or for decoders
            of images that can be halved only once.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 64,
        num_blocks: int | None = None,
        decoders: bool = False,
    ):
        super().__init__(image_size, channels, num_classes)
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        layers.grid_size(image_size, self.num_blocks)
        check_blocks(self.num_blocks)
        halvings = max(self.num_blocks - 1, 1)
        self.grid = (image_size[0] // 2**halvings, image_size[1] // 2**halvings)
        kernel = tuple(min(side, 4) for side in self.grid)
        widths = [max(8 * width // 2**i, 1) for i in range(8)]  # of the map that is 2**i times as large as the grid

        whole = min(halvings, 5)  # halvings after the stem, which itself halves images of 512 pixels and more
        stem = widths[whole : max(halvings, whole + 1)][::-1]
        first = nn.Conv2d(channels, stem[0], 3, padding=1, bias=False) if halvings <= 5 else halving(channels, stem[0])
        self.stem = nn.Sequential(first, nn.LeakyReLU(0.2), *(normalized(halving(n, m)) for n, m in pairwise(stem)))
        self.blocks = nn.ModuleList(DownBlock(n, m) for n, m in pairwise(widths[whole::-1]))
        self.excitations = nn.ModuleList(
            Excitation(*pair) for pair in zip(widths[whole::-1], widths[: max(whole - 2, 0)][::-1], strict=False)
        )
        self.features = normalized(nn.Conv2d(widths[0], 2 * widths[0], 1, bias=False))
        self.to_logits = nn.Conv2d(2 * widths[0], 1, kernel, bias=False)
        if num_classes > 0:
            self.embed = nn.Embedding(num_classes, 2 * widths[0])

        small = min(halvings - 1, SMALL)
        self.shrink = nn.AvgPool2d(2 ** (halvings - small))  # to the small image
        self.small = nn.Sequential()
        if small:
            self.small.extend([halving(channels, widths[small]), nn.LeakyReLU(0.2)])
            self.small.extend(normalized(halving(n, m)) for n, m in pairwise(widths[small:0:-1]))
            self.small_to_logits = nn.Conv2d(widths[1], 1, kernel, bias=False)
        if decoders and not small:
            raise ValueError("the decoders of FastGAN need images that can be halved twice: set decoders to false")
        inputs = (widths[0], widths[1], widths[1]) if decoders else ()  # of the whole, a quarter, the small image
        self.decoders = nn.ModuleList(Decoder(n, channels, width, self.grid, small) for n in inputs)
        self.apply(initialize)
        if num_classes > 0:
            nn.init.normal_(self.embed.weight, 0.0, 0.02)
        layers.add_spectral_norm(self)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Images -> the feature maps of the stem and of each block."""
        maps = [self.stem(x)]
        for i, block in enumerate(self.blocks, start=1):
            x = block(maps[-1])
            maps.append(self.excitations[i - 3](maps[i - 3], x) if i >= 3 else x)
        return maps

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        self.check_condition(condition)
        h = self.features(self.maps(x)[-1])
        patches = [self.to_logits(h).flatten(1)]
        if self.small:
            patches.append(self.small_to_logits(self.small(self.shrink(x))).flatten(1))
        logits = torch.cat(patches, 1).mean(1)
        if condition is not None:
            logits = logits + (self.embed(condition) * h.mean((2, 3))).sum(1)
        return logits

    def reconstructions(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Images -> what the decoders make, and what they should: the whole, a random quarter, the small image."""
        maps, small = self.maps(x), self.shrink(x)
        lower, right = torch.randint(2, (2,)).tolist()
        quarter, part = (
            t.unflatten(3, (2, -1))[:, :, :, right].unflatten(2, (2, -1))[:, :, lower] for t in (x, maps[-2])
        )
        wanted = (small, F.adaptive_avg_pool2d(quarter, small.shape[2:]), small)
        seen = (maps[-1], part, self.small(small))
        return [(decode(h), image) for decode, h, image in zip(self.decoders, seen, wanted, strict=True)]
