"""What two families of networks share."""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from math import gcd
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def grid_size(image_size: tuple[int, int], num_blocks: int, option: str = "num_blocks") -> tuple[int, int]:
    """The grid that `num_blocks` steps of factor 2 connect with the image.

    Args:
        image_size: height and width in pixels.
        num_blocks: number of up-samplings (or down-samplings) by 2.
        option: name of the constructor argument that holds `num_blocks`, for the message.

    Returns:
        Height and width of the grid: those of the image, divided by 2**num_blocks.

    Raises:
        ValueError: if 2**num_blocks does not divide both sides; names the nearest sizes that it divides.
    """
    if num_blocks < 1:
        raise ValueError(f"{option} must be at least 1, not {num_blocks}")
    height, width = image_size
    factor = 2**num_blocks
    if height % factor == 0 and width % factor == 0:
        return height // factor, width // factor
    below = (height // factor * factor, width // factor * factor)
    above = (-(-height // factor) * factor, -(-width // factor) * factor)
    nearest = " and ".join(f"{h}x{w}" for h, w in (below, above) if min(h, w) > 0)
    common = gcd(height, width)
    fits = (common & -common).bit_length() - 1  # the largest power of 2 that divides both sides
    remedy = f", or set {option}={fits}" if fits else ""
    raise ValueError(
        f"image_size {height}x{width} is not a multiple of {factor} ({option}={num_blocks}): "
        f"choose another data.image_size, nearest {nearest}{remedy}, or a network of src.networks.mlp"
    )


def choose_blocks(num_blocks: int | None, image_size: tuple[int, int]) -> int:
    """`num_blocks`, or without one the most that leave a grid of whole numbers, 4 or more; at least 1.

    32x32 and 64x64 take 3 and 4 blocks, from 4x4; 28x28 takes 2, from 7x7; 48x64 takes 3, from 6x8.

    Args:
        num_blocks: what the user says.
        image_size: height and width in pixels.
    """
    if num_blocks is not None:
        return num_blocks
    chosen = 1
    while gcd(*image_size) % 2 ** (chosen + 1) == 0 and min(image_size) >= 4 * 2 ** (chosen + 1):
        chosen += 1
    if min(image_size) // 2**chosen >= 16 and gcd(*image_size) % 2 == 0:
        height, width = (-(-side // 16) * 16 for side in image_size)
        rank_zero_warn(
            f"image_size {image_size[0]}x{image_size[1]} can be halved only so often ({chosen}): large and slow"
            f" networks; {height}x{width} makes smaller ones"
        )
    return chosen


def doubled(width: int, number: int, max_width: int = 1024) -> list[int]:
    """`number` widths, from that nearest to the image: each twice the one before it, up to `max_width`.

    Raises:
        ValueError: if `width` itself is above `max_width`.
    """
    if width > max_width:
        raise ValueError(f"width {width} is above max_width {max_width}: lower the one or raise the other")
    return [min(width * 2**i, max_width) for i in range(number)]


def dense(widths: tuple[int, ...], activation: nn.Module, batch_norm: bool, dropout: float) -> nn.Sequential:
    """Linear, [BatchNorm], activation, [Dropout] from each width to the next."""
    stack = nn.Sequential()
    for num_inputs, num_outputs in pairwise(widths):
        # A bias before batch normalization has no effect.
        stack.append(nn.Linear(num_inputs, num_outputs, bias=not batch_norm))
        if batch_norm:
            stack.append(nn.BatchNorm1d(num_outputs))
        stack.append(activation)
        if dropout > 0:
            stack.append(nn.Dropout(dropout))
    return stack


class Embedding(nn.Embedding):
    """A row a class; instead of labels [B] it takes shares of classes [B, num_classes] as well, and mixes the rows."""

    def forward(self, condition: Tensor) -> Tensor:
        return condition @ self.weight if condition.is_floating_point() else super().forward(condition)


def shares(condition: Tensor, num_classes: int) -> Tensor:
    """Shares of classes [B, num_classes]: of labels [B] the whole."""
    return condition if condition.is_floating_point() else F.one_hot(condition, num_classes)


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalization with a gain and a bias per class; without classes, the ordinary one.

    de Vries et al., arXiv:1707.00683, with a table instead of their network. The normalization is a module inside this
    one, not its base class, so that `SyncBatchNorm.convert_sync_batchnorm` replaces it and leaves the gains in place.

    Args:
        num_features: channels of the feature map.
        num_classes: of the condition; 0: one gain and one bias for all.
    """

    def __init__(self, num_features: int, num_classes: int = 0):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=num_classes == 0)
        if num_classes > 0:
            self.gain = Embedding(num_classes, num_features)
            self.bias = Embedding(num_classes, num_features)
            nn.init.ones_(self.gain.weight)
            nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Feature maps [B, num_features, H, W], labels [B] -> the same shape."""
        x = self.norm(x)
        if condition is None:
            return x
        # In the dtype of x: float32 gains would silently promote a bfloat16 feature map.
        gain = self.gain(condition)[:, :, None, None].to(x.dtype)
        bias = self.bias(condition)[:, :, None, None].to(x.dtype)
        return gain * x + bias


class Gate(nn.Module):
    """Gated linear unit: the first half of the channels, times the sigmoid of the second.

    As `torch.nn.GLU`, whose gradient is never in channels_last: batch normalization then takes 7 times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        values, gates = x.chunk(2, 1)
        return values * torch.sigmoid(gates)


class ProjectionHead(nn.Module):
    """Features to logits: psi(h) + <embed(y), h>, Miyato & Koyama, arXiv:1802.05637, Fig. 1d; without classes, psi(h).

    Args:
        num_features: of h.
        num_classes: of the condition y; 0: unconditional.
    """

    def __init__(self, num_features: int, num_classes: int = 0):
        super().__init__()
        self.psi = nn.Linear(num_features, 1)
        if num_classes > 0:
            self.embed = nn.Embedding(num_classes, num_features)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features [B, num_features], labels [B] -> logits [B]."""
        logits = self.psi(h).squeeze(1)
        if condition is None:
            return logits
        return logits + (self.embed(condition) * h).sum(1)


class ClassHead(nn.Module):
    """Features to logits psi(h), whatever the class, and to classes: by a linear layer, or by nearness to proxies.

    Args:
        num_features: of h.
        num_classes: K.
        proxy_dim: length of the embedding of h and of the proxy of each class; 0: a linear layer, as in AC-GAN.
    """

    def __init__(self, num_features: int, num_classes: int, proxy_dim: int):
        super().__init__()
        self.psi = nn.Linear(num_features, 1)
        self.classes = nn.Linear(num_features, proxy_dim or num_classes)
        if proxy_dim:
            self.proxies = nn.Embedding(num_classes, proxy_dim)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features [B, num_features] -> logits [B]."""
        return self.psi(h).squeeze(1)


class SecondOutput:
    """The logits of a discriminator with `pooled(x) -> h` and a `head`, and the classes that it finds beside them."""

    head: nn.Module

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], labels [B] -> logits [B]."""
        self.check_condition(condition)
        return self.head(self.pooled(x), condition)

    @property
    def classifies(self) -> bool:
        """Whether there is a second output: `class_logits`."""
        return isinstance(self.head, ClassHead)

    @property
    def has_proxies(self) -> bool:
        """Whether it comes from `class_embeddings`."""
        return hasattr(self.head, "proxies")

    def class_logits(self, x: Tensor, condition: Any = None) -> Tensor:
        """Images [B, channels, H, W] -> logits of the classes [B, num_classes]; with proxies the cosines to them."""
        if self.has_proxies:
            embeddings, proxies = self.class_embeddings(x)
            return embeddings @ proxies.T
        return self.head.classes(self.pooled(x))

    def class_embeddings(self, x: Tensor, condition: Any = None) -> tuple[Tensor, Tensor]:
        """Images [B, channels, H, W] -> embeddings [B, proxy_dim] and proxies [num_classes, proxy_dim], of length 1."""
        embeddings, proxies = self.head.classes(self.pooled(x)), self.head.proxies.weight
        return F.normalize(embeddings.float(), dim=1), F.normalize(proxies.float(), dim=1)


Classes = Literal["projection", "classifier", "proxies"]


def class_head(num_features: int, num_classes: int, classes: Classes, proxy_dim: int) -> nn.Module:
    """The head of a discriminator, by how it knows of classes.

    Raises:
        ValueError: for a second output without classes.
    """
    if classes == "projection":
        return ProjectionHead(num_features, num_classes)
    if num_classes == 0:
        raise ValueError(f"classes={classes} needs labelled data: set data.labels to true, or classes to projection")
    return ClassHead(num_features, num_classes, proxy_dim if classes == "proxies" else 0)


def add_spectral_norm(network: nn.Module, embeddings: bool = True) -> None:
    """Divide every weight matrix of `network` by its largest singular value.

    Miyato et al., arXiv:1802.05957, Eq. 8 and Algorithm 1; a convolution counts as the matrix
    [out, in * height * width]. Call it after initialization: the power iteration starts from the weights it finds.

    Args:
        network: changed in place.
        embeddings: those too; false where they are gains and biases of normalization.
    """
    kinds = (nn.Linear, nn.Conv2d, *[nn.Embedding] * embeddings)
    for module in list(network.modules()):
        if isinstance(module, kinds):
            parametrizations.spectral_norm(module)


def upsample(x: Tensor) -> Tensor:
    """Nearest neighbour, factor 2: [B, C, H, W] -> [B, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def ordered_as(weight: Tensor, x: Tensor) -> Tensor:
    """`x` [B, C, H, W] in channels_last if the weight of the next convolution is: a linear layer's maps never are."""
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def float32(x: Tensor) -> AbstractContextManager:
    """A context in which nothing is computed in less than float32, on the device of `x`.

    None where nothing is so in any case: a program with such a context could be exported, but not read again.
    """
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
