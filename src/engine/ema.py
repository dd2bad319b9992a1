"""The moving average of the generator's weights, which is what is shown, scored and sampled."""

import math

import torch
from torch import nn

from src.engine.descriptions import Part
from src.engine.schedules import Schedule, extremes


class EMA(Part):
    """Exponential moving average of the generator.

    Give `half_life` or `decay`. Buffers (batch-norm statistics) are copied, not averaged.

    Args:
        half_life: images after which a weight's share has halved, so that it does not depend on the batch size
            (stylegan2-ada-pytorch counts so); a schedule may begin at 0, where the average is the current weights.
        decay: share of the old average kept at each step, in [0, 1), as most papers state it (0.999, 0.9999).
        warmup: the half-life is at most this share of the images seen so far, so that the average forgets the
            random start; 0.05 in stylegan2-ada-pytorch, `null` switches it off.

    Raises:
        ValueError: unless exactly one of `half_life` and `decay` is given and in its range.
    """

    def __init__(
        self, half_life: float | Schedule | None = None, decay: float | None = None, warmup: float | None = 0.05
    ):
        if (half_life is None) == (decay is None):
            raise ValueError("EMA takes either half_life (images) or decay (per step), and not both")
        if half_life is not None and (extremes(half_life)[0] < 0 or half_life == 0):
            raise ValueError(
                f"EMA half_life must be positive, got {extremes(half_life)[0]}; `model.ema: null` switches EMA off"
            )
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), got {decay}")
        if warmup is not None and warmup <= 0:
            raise ValueError(f"EMA warmup must be positive or null, got {warmup}")
        self.half_life, self.decay, self.warmup = half_life, decay, warmup

    def decay_at(self, step: int, batch_size: int) -> float:
        """The share of the old average that step number `step` (from 0) of `batch_size` images keeps."""
        if 0 in (self.decay, self.half_life):
            return 0.0
        half_life = self.half_life or batch_size * math.log(0.5) / math.log(self.decay)
        if self.warmup is not None:
            half_life = min(half_life, self.warmup * (step + 1) * batch_size)
        return 0.5 ** (batch_size / half_life)

    def attach(self, average: nn.Module, network: nn.Module) -> None:
        """Names the two networks, once they are on their device; walking through them at every step costs more."""
        self.weights = list(average.parameters()), list(network.parameters())
        self.buffers = list(average.buffers()), list(network.buffers())

    @torch.no_grad()
    def update(self, step: int, batch_size: int) -> None:
        """average <- decay * average + (1 - decay) * network, in one kernel for all weights."""
        torch._foreach_lerp_(*self.weights, 1 - self.decay_at(step, batch_size))
        if self.buffers[0]:
            torch._foreach_copy_(*self.buffers)
