"""What optimizers hold: weights, gradients, and a state that stays when their options change while a run goes on."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def forget_gradients(optimizer: Any) -> None:
    for parameter in parameters(optimizer):
        parameter.grad = None


def kept_by(make: Callable[[Iterable[Tensor]], Optimizer], like: Optimizer) -> set[str]:
    """Names of what an optimizer keeps for its weights, found by a step on small ones.

    Args:
        make: the optimizer.
        like: one for the weights that are meant: theirs are the numbers of dimensions.
    """
    dimensions = {weight.ndim for group in like.param_groups for weight in group["params"]}
    small = [nn.Parameter(torch.zeros((2,) * number)) for number in sorted(dimensions)]
    optimizer = make(small)
    for group in optimizer.param_groups:
        group |= {"capturable": False} if "capturable" in group else {}  # there is no graph to capture on a CPU
    for weight in small:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return names(optimizer.state)


def names(state: dict[Any, dict[str, Any]]) -> set[str]:
    """What an optimizer's `state` holds for any of its weights."""
    return {name for values in state.values() for name, value in values.items() if value is not None}


def advance(scheduler: Any, steps: int) -> None:
    """Brings a new schedule, and the rates of its optimizer, to where it is after so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not been stepped
        for _ in range(steps):
            scheduler.step()
