"""How images are brought to the size that a network takes; a distance depends on it by several percent."""

import torch
import torch.nn.functional as F
from torch import Tensor


def tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """Bilinear interpolation of TensorFlow 1, in which the FID was defined: corners aligned at the top left only.

    No antialiasing. Equal to torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x`, to the last bit where the
    images are enlarged.

    Args:
        x: float32 [B, C, H, W].
        size: height and width of the result.
    """
    # Enlarging in torch-fidelity's order gives its roundings; for large images, rows first leaves fewer to read.
    first, second = (3, 2) if x.shape[2] <= size else (2, 3)
    return _lerp(_lerp(x, first, size), second, size)


def _lerp(x: Tensor, dim: int, size: int) -> Tensor:
    """Linear interpolation along one dimension; point i of the result lies at i * length / size."""
    length = x.shape[dim]
    position = torch.arange(size, dtype=torch.float32, device=x.device) * (length / size)
    below = position.long()
    fraction = (position - below).view(-1, *[1] * (x.ndim - 1 - dim))
    left, right = x.index_select(dim, below), x.index_select(dim, (below + 1).clamp_max(length - 1))
    return right.sub_(left).mul_(fraction).add_(left)


def bicubic(x: Tensor, size: int) -> Tensor:
    """Antialiased bicubic interpolation, clamped to 0..255: Pillow's on float images ("clean", arXiv:2104.11222).

    In float64, for PyTorch computes the weights in the type of the image: in float32 it is up to 0.004 grey levels
    away from Pillow, and no faster up to 512 pixels. Apple's GPUs have float32 alone.

    Args:
        x: float32 grey levels [B, C, H, W], 0 to 255.
        size: height and width of the result.
    """
    precise = x if x.device.type == "mps" else x.double()
    return F.interpolate(precise, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255).float()
