"""Layers with an equalized learning rate, and convolutions that a style modulates; of StyleGAN2, arXiv:1912.04958.

Weights are stored with unit variance and scaled where they are used (arXiv:1710.10196, Section 4.1), so that Adam moves
all of them alike.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import layers
from src.networks.resampling import Blur


def leaky(x: Tensor, gain: float = 1.0) -> Tensor:
    """Leaky ReLU that keeps the variance of centred input, times `gain`."""
    return F.leaky_relu(x, 0.2) * (gain * sqrt(2))


def normalized(x: Tensor) -> Tensor:
    """Features [B, N] divided by the root of their mean square, each sample by its own."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Linear(nn.Module):
    """A linear layer.

    Args:
        num_inputs: features in.
        num_outputs: features out.
        bias: its first value.
        rate: factor of the learning rate of this layer.
    """

    def __init__(self, num_inputs: int, num_outputs: int, bias: float = 0.0, rate: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs) / rate)
        self.bias = nn.Parameter(torch.full((num_outputs,), bias))
        self.scale, self.rate = rate / sqrt(num_inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution; with `down` it halves height and width, after a blur.

    Args:
        num_inputs: channels in.
        num_outputs: channels out.
        size: of the kernel, odd.
        bias: whether it has one.
        down: halve; the blur comes first, as in arXiv:1904.11486.
    """

    def __init__(self, num_inputs: int, num_outputs: int, size: int, bias: bool = True, down: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(num_outputs)) if bias else None
        self.scale = 1 / sqrt(num_inputs * size**2)
        self.blur = Blur(padding=size // 2 + 1) if down else nn.Identity()
        self.options = {"stride": 2} if down else {"padding": size // 2}

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.blur(x), self.weight * self.scale, self.bias, **self.options)


class ModulatedConv(nn.Module):
    """A convolution whose input channels each sample scales by its style (arXiv:1912.04958, Section 2.2).

    The source scales the weights of each sample. Here its channels are scaled before and after one convolution for all,
    which is the same sum.

    Args:
        num_inputs: channels in.
        num_outputs: channels out.
        size: of the kernel, odd.
        style_dim: length of w.
        demodulate: divide by the deviation that the output would have for independent inputs of unit variance.
        up: double height and width, blurred afterwards.
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, size: int, style_dim: int, demodulate: bool = True, up: bool = False
    ):
        super().__init__()
        self.style = Linear(style_dim, num_inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, size, size))
        self.scale = 1 / sqrt(num_inputs * size**2)  # cancelled by the demodulation, but for small numbers' sake
        self.demodulate = demodulate
        self.blur = Blur(gain=4.0) if up else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Feature maps [B, num_inputs, H, W], styles [B, style_dim] -> [B, num_outputs, H, W], or twice H and W."""
        weight = self.weight * self.scale
        with layers.float32(x):
            style = self.style(w)
            deviation = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).sqrt()
        x = x * style[:, :, None, None].to(x.dtype)
        if self.blur is None:
            x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return x / deviation[:, :, None, None].to(x.dtype) if self.demodulate else x
