"""The order of weights in memory: channels last, in which convolutions are faster, and a trap of fused optimizers."""

import torch
from torch import nn
from torch.optim import Optimizer


def channels_last_(network: nn.Module) -> None:
    """Brings the weights of 2-D convolutions into channels_last; images and gradients follow them by themselves."""
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def like_weights_(optimizer: Optimizer) -> None:
    """Gives the state of an optimizer the strides of its weights; a checkpoint brings those that it was written with.

    A fused optimizer on a CPU walks through memory and looks at no strides: with other ones it moves each weight by the
    moments of another, without an error.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
