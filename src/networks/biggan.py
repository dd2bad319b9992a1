"""Residual networks with self-attention: SAGAN (arXiv:1805.08318) and BigGAN (arXiv:1809.11096)."""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers
from src.networks.resnet import DiscriminatorBlock, UpBlock

# Channels from the image to the grid, as multiples of `width`, by the number of halvings: for 64, 128, 256 pixels.
MULTIPLES = {4: (1, 2, 4, 8, 16), 5: (1, 2, 4, 8, 16, 16), 6: (1, 2, 4, 8, 8, 16, 16)}


def widths_of(width: int, num_blocks: int, small: int) -> list[int]:
    """`num_blocks + 1` widths from the image to the grid; up to 3 blocks all are `small` times `width`."""
    if num_blocks <= 3:
        return [small * width] * (num_blocks + 1)
    multiples = MULTIPLES.get(num_blocks) or layers.doubled(1, num_blocks + 1, max_width=16)
    return [multiple * width for multiple in multiples]


def orthogonal(module: nn.Module) -> None:
    """Orthogonal weights, biases 0 (arXiv:1809.11096, Section 3). For `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.orthogonal_(module.weight)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


def check_attention(attention: int | None, num_blocks: int) -> None:
    if attention is not None and not 1 <= attention <= num_blocks:
        raise ValueError(f"attention must be 1 to {num_blocks}, the number of halvings, or null, not {attention}")


class SelfAttention(nn.Module):
    """x + gamma * o, where o attends from each place of a feature map to all; arXiv:1805.08318, Eqs. 1 to 4.

    As in the authors' code keys and values are pooled 2x2, and logits are not divided by the root of their length.
    gamma starts at 0, so that the layer starts as the identity. Under autocast, logits and softmax stay in float32:
    an error of 1 in a logit is a factor of e in a weight.

    Args:
        width: channels of the feature map; keys have an eighth of them, values a half.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Conv2d(width, max(width // 8, 1), 1, bias=False)
        self.key = nn.Conv2d(width, max(width // 8, 1), 1, bias=False)
        self.value = nn.Conv2d(width, max(width // 2, 1), 1, bias=False)
        self.out = nn.Conv2d(max(width // 2, 1), width, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps [B, width, H, W] -> the same shape."""
        query = self.query(x)
        # ceil_mode: odd grids keep their last row and column.
        key, value = (F.max_pool2d(layer(x), 2, ceil_mode=True) for layer in (self.key, self.value))
        with layers.float32(x):
            exact = torch.promote_types(x.dtype, torch.float32)
            query, key, value = (t.flatten(2).to(exact) for t in (query, key, value))
            weights = (query.transpose(1, 2) @ key).softmax(2)  # [B, places, keys]
            attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma.to(x.dtype) * self.out(attended.to(x.dtype))


class VectorBatchNorm2d(nn.Module):
    """Batch normalization whose gain and bias are linear in a vector; arXiv:1809.11096, Figure 15.

    Args:
        num_features: channels of the feature map.
        num_inputs: length of the vector; 0: one gain and one bias for all.
    """

    def __init__(self, num_features: int, num_inputs: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=num_inputs == 0)
        if num_inputs > 0:
            self.gain = nn.Linear(num_inputs, num_features, bias=False)
            self.bias = nn.Linear(num_inputs, num_features, bias=False)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Feature maps [B, num_features, H, W], vectors [B, num_inputs] -> the same shape."""
        x = self.norm(x)
        if vector.shape[1] == 0:
            return x
        gain, bias = (layer(vector)[:, :, None, None].to(x.dtype) for layer in (self.gain, self.bias))
        return (1 + gain) * x + bias


class Generator(base.Generator):
    """BigGAN's, of residual up blocks with attention; `shared_dim: 0, hierarchical: false` make SAGAN's.

    Up to 3 blocks all widths are 4 times `width`. From 4 on (64 pixels) they double towards the grid, up to 16 times.
    The biases of the published networks that batch normalization takes away again are left out.
    Running statistics of batch normalization lag behind the weights: see `StandingStatistics` for a better score.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_dim: length of the latent; in BigGAN 20 a part, which makes 80 at 32 pixels, 100 at 64, 120 at 128.
        width: of the last block, or a quarter of it up to 3 blocks; 96 in BigGAN, 64 in SAGAN.
        num_blocks: number of up-samplings by 2, from the grid to the image; by default as many as leave 4x4 or more.
        attention: number of halvings between the image and the feature map that attends to itself; `null` for none.
            1 is published for 32 to 128 pixels and 2 for 256; at 32 pixels it gains nothing.
        shared_dim: length of the embedding of a class that all blocks share; 0: each block has a table of its own.
        hierarchical: the latent is cut into parts, one for the grid and one for each block.
        spectral_norm: on every layer but the shared embedding (arXiv:1802.05957).

    Raises:
        ValueError: if 2**num_blocks does not divide the height and the width, or the latent cannot be cut.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 80,
        width: int = 96,
        num_blocks: int | None = None,
        attention: int | None = 1,
        shared_dim: int = 128,
        hierarchical: bool = True,
        spectral_norm: bool = True,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        height_0, width_0 = layers.grid_size(image_size, self.num_blocks)
        check_attention(attention, self.num_blocks)
        if hierarchical and latent_dim <= self.num_blocks:
            raise ValueError(
                f"a latent of length {latent_dim} cannot be cut into {self.num_blocks + 1} parts: set latent_dim to"
                f" {self.num_blocks + 1} or more, or hierarchical to false"
            )
        parts = self.num_blocks + 1 if hierarchical else 1
        self.parts = [len(part) for part in torch.arange(latent_dim).tensor_split(parts)]
        self.parts += [0] * (self.num_blocks + 1 - parts)
        label_dim = num_classes and (shared_dim or num_classes)

        widths = widths_of(width, self.num_blocks, small=4)[::-1]
        self.grid = (widths[0], height_0, width_0)
        self.linear = nn.Linear(self.parts[0], widths[0] * height_0 * width_0)
        self.blocks = nn.ModuleList(
            UpBlock(num_inputs, num_outputs, partial(VectorBatchNorm2d, num_inputs=label_dim + part))
            for (num_inputs, num_outputs), part in zip(pairwise(widths), self.parts[1:], strict=True)
        )
        self.attended = None if attention is None else self.num_blocks - attention  # the block before which it attends
        if attention is not None:
            self.attention = SelfAttention(widths[self.attended])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_pixels = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.apply(orthogonal)
        if spectral_norm:
            layers.add_spectral_norm(self)
        # Without spectral norm: "with it some runs failed", ajbrock/BigGAN-PyTorch.
        embeds = num_classes > 0 and shared_dim > 0
        self.shared = layers.Embedding(num_classes, shared_dim).apply(orthogonal) if embeds else None

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents [B, latent_dim], labels [B] -> images [B, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        first, *parts = z.split(self.parts, dim=1)
        label = z[:, :0]
        if condition is not None:
            label = self.shared(condition) if self.shared else layers.shares(condition, self.num_classes).to(z.dtype)
        x = self.linear(first).unflatten(1, self.grid)
        for i, (block, part) in enumerate(zip(self.blocks, parts, strict=True)):
            if i == self.attended:
                x = self.attention(x)
            x = block(x, torch.cat([label, part], 1))
        return torch.tanh(self.to_pixels(F.relu(self.norm(x))))


class Discriminator(layers.SecondOutput, base.Discriminator):
    """The one of SAGAN and BigGAN: residual blocks with attention, sum over the grid; classes by projection.

    Up to 3 halvings all widths are twice `width`. From 4 on they double from the image to the grid, up to 16 times.

    Args:
        image_size: height and width in pixels, multiples of 2**num_down.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        width: of the first block, or half of it up to 3 halvings; 96 in BigGAN, 64 in SAGAN.
        num_down: number of blocks that down-sample by 2; by default as many as leave 4x4 or more; 2 in CIFAR-10's.
        num_plain: number of blocks after them that keep the grid; 2 in CIFAR-10's.
        attention: number of halvings between the image and the feature map that attends to itself; `null` for none.
        spectral_norm: on every layer (arXiv:1802.05957).
        classes: "projection" judges an image as one of its class (arXiv:1802.05637). The others judge it whatever its
            class, which is a second output: "classifier" for `Classification` (AC-GAN), "proxies" for
            `DataToDataCrossEntropy` (ReACGAN).
        proxy_dim: length of the embeddings and proxies of the latter.

    Raises:
        ValueError: if 2**num_down does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 96,
        num_down: int | None = None,
        num_plain: int = 1,
        attention: int | None = 1,
        spectral_norm: bool = True,
        classes: layers.Classes = "projection",
        proxy_dim: int = 512,
    ):
        super().__init__(image_size, channels, num_classes)
        self.independent = not spectral_norm
        self.num_down = layers.choose_blocks(num_down, image_size)
        layers.grid_size(image_size, self.num_down, option="num_down")
        check_attention(attention, self.num_down)
        down = widths_of(width, self.num_down, small=2)
        widths = [channels, *down[:-1], *[down[-1]] * num_plain]
        self.blocks = nn.Sequential()
        for i, (num_inputs, num_outputs) in enumerate(pairwise(widths)):
            self.blocks.append(DiscriminatorBlock(num_inputs, num_outputs, down=i < self.num_down, first=i == 0))
            if i + 1 == attention:
                self.blocks.append(SelfAttention(num_outputs))
        self.head = layers.class_head(widths[-1], num_classes, classes, proxy_dim)
        self.apply(orthogonal)
        if spectral_norm:
            layers.add_spectral_norm(self)

    def pooled(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] -> features [B, widths of the last block]."""
        return F.relu(self.blocks(x)).sum(dim=(2, 3))
