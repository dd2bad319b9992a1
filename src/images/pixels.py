"""The two directions between stored grey levels and what the networks see. Nothing else converts pixels."""

import torch
from torch import Tensor


def from_uint8(images: Tensor) -> Tensor:
    """Grey levels to network range.

    Args:
        images: uint8 of any shape, 0 to 255.

    Returns:
        float32 of the same shape, in [-1, 1].
    """
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Network range to grey levels: rounded, not truncated, as in the PNG file that a user would save.

    Inverts `from_uint8` for all 256 levels; values outside [-1, 1] are clamped.

    Args:
        images: float of any shape, nominally in [-1, 1].

    Returns:
        uint8 of the same shape.
    """
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
