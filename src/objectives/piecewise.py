"""Piecewise linear layers in penalties on gradients: without the zeros of their second derivatives."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


class PiecewiseLinear(TorchFunctionMode):
    """Takes the slopes of ReLU, leaky ReLU and average pooling for constants when a gradient is differentiated.

    Their second derivative is 0 wherever there is one. PyTorch writes these zeros into tensors, and sends them back
    through all layers in front, convolutions and all. The gradients are the same without.
    """

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in LAYERS and args:
            x, *options = args
            return WithConstantSlopes.apply(x, *LAYERS[function](*options, **(kwargs or {})))
        return function(*args, **(kwargs or {}))


class WithConstantSlopes(torch.autograd.Function):
    """A layer and its backward pass, which takes the gradient of the output and the input."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: Callable, backward: Callable) -> Tensor:
        context.save_for_backward(x)
        context.slopes = backward
        context.set_materialize_grads(False)  # None stays None: these are the zeros in question
        return layer(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        (x,) = context.saved_tensors
        return None if gradient is None else context.slopes(gradient, x.detach()), None, None


def relu(inplace: bool = False) -> tuple[Callable, Callable]:
    return F.relu, lambda gradient, x: aten.threshold_backward(gradient, x, 0)


def leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> tuple[Callable, Callable]:
    return (
        lambda x: F.leaky_relu(x, negative_slope),
        lambda gradient, x: aten.leaky_relu_backward(gradient, x, negative_slope, False),
    )


def avg_pool2d(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Callable, Callable]:
    options = (_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))
    options += (ceil_mode, count_include_pad, divisor_override)
    return (
        lambda x: F.avg_pool2d(x, *options),
        lambda gradient, x: aten.avg_pool2d_backward(gradient, x, *options),
    )


# What makes, of the options of a layer, the layer and its backward pass.
LAYERS = {F.relu: relu, F.leaky_relu: leaky_relu, F.avg_pool2d: avg_pool2d}
