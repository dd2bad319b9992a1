"""The moving average of the generator's weights, which is what is shown, scored and sampled."""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from src.engine.descriptions import Part
from src.engine.schedules import Schedule, extremes


class EMA(Part):
    """Exponential moving average of the generator.

    Give `half_life` or `decay`. Buffers (batch-norm statistics) are copied, not averaged.

    Args:
        half_life: images after which a weight's share has halved, so that it does not depend on the batch size
            (stylegan2-ada-pytorch counts so); a batch a step, whatever `d_steps`. A schedule may begin at 0, where the
            average is the current weights.
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


class PowerEMA(EMA):
    """An average whose memory grows with the run, so that no half-life has to be chosen; arXiv:2312.02696, Section 3.1.

    After the time t it is the mean of the generators so far, that of the time s weighted by s**gamma: the start is
    forgotten by itself, and a run of twice the length has the same average in twice the time. Buffers are copied.

    Args:
        length: standard deviation of these weights as a share of the time so far, above 0 and below 0.289, that of
            the plain mean; 0.05 and 0.10 in EDM2.

    Raises:
        ValueError: for a length out of range.
    """

    def __init__(self, length: float = 0.1):
        super().__init__(decay=0.0, warmup=None)
        self.power = power_of(length)

    def decay_at(self, step: int, batch_size: int) -> float:
        return (1 - 1 / (step + 1)) ** (self.power + 1)


def power_of(length: float) -> float:
    """gamma, where length**2 = (gamma + 1) / ((gamma + 2)**2 (gamma + 3)), the variance of the density of t**gamma.

    Raises:
        ValueError: for a length that no gamma of 0 or more has.
    """
    if not 0 < length < 12**-0.5:
        raise ValueError(f"length of PowerEMA must be above 0 and below {12**-0.5:.3f}, got {length}")
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


LENGTHS = (0.05, 0.10)  # of the averages that `KeptAverages` writes


def average_file(run_dir: Path, step: int, length: float) -> Path:
    return run_dir / "averages" / f"{step:08d}-{length:.2f}.safetensors"


def solved(run_dir: Path, step: int, length: float) -> dict[str, Tensor]:
    """The average of a length that nothing kept, from the files of `KeptAverages` up to a step.

    Each is the mean of the generators so far under a density over time; of all sums of these densities, that nearest
    in squares to the one wanted; arXiv:2312.02696, Section 3.2 and Appendix C.

    Args:
        run_dir: folder of the run.
        step: at which the average ends.
        length: of the average.

    Returns:
        Weights of the generator, by name.

    Raises:
        ValueError: without a file of this step, or for a length out of range.
    """
    wanted = (float(step), power_of(length))
    kept = {}
    for path in sorted(average_file(run_dir, 0, 0).parent.glob("*.safetensors")):
        time, of = path.stem.split("-")
        if int(time) <= step:
            kept[path] = (float(time), power_of(float(of)))
    if step not in [time for time, _ in kept.values()]:
        raise ValueError(
            f"{average_file(run_dir, step, LENGTHS[0]).parent} has no averages of step {step}: train with the callback"
            " KeptAverages, and choose a checkpoint of a step at which it writes"
        )
    products = np.array([[product(a, b) for a in kept.values()] for b in kept.values()])
    factors = np.linalg.lstsq(products, np.array([product(a, wanted) for a in kept.values()]), rcond=None)[0]
    factors /= factors.sum()  # a mean again: with few files squares alone leave up to a tenth of the weights out
    total: dict[str, Tensor] = {}
    for path, factor in zip(kept, factors, strict=True):
        for name, weight in load_file(path).items():
            total[name] = total.get(name, 0) + factor * weight.double()
    return {name: weight.float() for name, weight in total.items()}


def product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The integral over the product of two densities (gamma + 1) s**gamma / t**(gamma + 1) of s in [0, t].

    Args:
        a: t and gamma.
        b: t and gamma.
    """
    (t, p), (u, q) = sorted((a, b))
    return (p + 1) * (q + 1) / (p + q + 1) / u * (t / u) ** q
