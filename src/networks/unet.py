"""A discriminator that judges an image as a whole and pixel by pixel: U-Net GAN, arXiv:2002.12655."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.biggan import orthogonal, widths_of
from src.networks.resnet import DiscriminatorBlock


class DecoderBlock(nn.Module):
    """ReLU-upsample-conv3-ReLU-conv3 beside an up-sampled 1x1 shortcut, without normalization.

    Args:
        num_inputs: channels in.
        width: channels out.
    """

    def __init__(self, num_inputs: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(num_inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(layers.upsample(F.relu(x)))
        return self.conv2(F.relu(h)) + layers.upsample(self.shortcut(x))


class Discriminator(base.Discriminator):
    """BigGAN's residual blocks down to a logit of the image, and back up, beside their maps, to a logit of each pixel.

    Its logit is the mean of both: half that of the image, half the mean over its pixels. The authors average losses,
    not logits. It goes with a generator of any family, with `biggan.Generator` there.

    Args:
        image_size: height and width in pixels, multiples of 2**num_down.
        channels: of the image.
        num_classes: of the condition; 0: unconditional. Classes enter both logits by projection (arXiv:1802.05637).
        width: channels of the first block, or half of it up to 3 halvings; they double up to 16 times.
        num_down: number of halvings; by default as many as leave 4x4 or more.
        spectral_norm: on every layer but those of the logits of the pixels (arXiv:1802.05957).

    Raises:
        ValueError: if 2**num_down does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 64,
        num_down: int | None = None,
        spectral_norm: bool = True,
    ):
        super().__init__(image_size, channels, num_classes)
        self.num_down = layers.choose_blocks(num_down, image_size)
        self.independent = not spectral_norm
        layers.grid_size(image_size, self.num_down, option="num_down")
        widths = widths_of(width, self.num_down, small=2)[:-1]
        self.encoder = nn.ModuleList(
            DiscriminatorBlock(num_inputs, num_outputs, down=True, first=i == 0)
            for i, (num_inputs, num_outputs) in enumerate(pairwise([channels, *widths]))
        )
        outputs = [*widths[-2::-1], widths[0]]  # of the decoder, which reads as much again from the encoder
        inputs = [widths[-1], *(2 * width for width in outputs[:-1])]
        self.decoder = nn.ModuleList(DecoderBlock(*pair) for pair in zip(inputs, outputs, strict=True))
        self.head = layers.ProjectionHead(widths[-1], num_classes)
        self.apply(orthogonal)
        if spectral_norm:
            layers.add_spectral_norm(self)
        self.to_pixels = nn.Conv2d(widths[0], 1, 1).apply(orthogonal)
        if num_classes > 0:
            self.embed = nn.Embedding(num_classes, widths[0]).apply(orthogonal)

    def both(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits of the images [B], of their pixels [B, H, W]."""
        self.check_condition(condition)
        maps = []
        for block in self.encoder:
            x = block(x)
            maps.append(x)
        logits = self.head(F.relu(x).sum((2, 3)), condition)
        for i, block in enumerate(self.decoder):
            x = block(x if i == 0 else torch.cat([x, maps[-1 - i]], 1))
        h = F.relu(x)
        of_pixels = self.to_pixels(h)
        if condition is not None:
            of_pixels = of_pixels + (self.embed(condition)[:, :, None, None] * h).sum(1, keepdim=True)
        return logits, of_pixels.squeeze(1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        logits, of_pixels = self.both(x, condition)
        return (logits + of_pixels.mean((1, 2))) / 2
