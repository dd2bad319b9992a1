"""The Markov-chain loss, for generators of sequences: rows of an image, frames of a film."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.distributed import average_
from src.engine.schedules import Schedule
from src.objectives.terms import GeneratorRegularizer

LARGEST = 4096  # numbers in an element of a sequence: its second moments take 64 MB


class MarkovChain(GeneratorRegularizer):
    """Samples must be as likely, step by step, under a Markov chain fitted to the data, as the data are.

    The chain is p(x_t | x_{t-1}) = N(A x_{t-1} + b, S) with one A, b, S for all t: maximum likelihood, in closed form,
    from the moments of all real batches so far (buffers). The term is the squared difference between fakes and data of
    the mean of log p(x_t | x_{t-1}), in nats per number of x_t. To maximise that mean itself, as a Markov-chain loss is
    at times written, would drive samples to the chain's mode, where x_t = A x_{t-1} + b: likelier than any real one.
    Where the data hold measurements, samples are measured, too.

    Args:
        weight: factor of the term, 0 or more.
        every: evaluate at every this many steps, 1 or more, rescaled by it; the moments then are of those steps' data.
        dim: dimension of the samples, the batch being 0, that is time: 2 the rows of an image, 3 its columns, 1 the
            frames of samples [B, T, C, H, W].
        ridge: variance added to x_{t-1} and to the noise, above 0.

    Raises:
        ValueError: for a ridge that is not positive, or `weight` and `every` out of their range.
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, dim: int = 2, ridge: float = 1e-3):
        super().__init__(weight, every)
        if ridge <= 0:
            raise ValueError(f"ridge of MarkovChain must be above 0, not {ridge}")
        self.dim, self.ridge = dim, ridge

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Makes room for the moments.

        Raises:
            ValueError: if the samples have no such dimension, are no sequences along it, or are too large.
        """
        shape = generator.output_shape
        length = shape[self.dim - 1] if 1 <= self.dim <= len(shape) else 0
        size = math.prod(shape) // max(length, 1)
        if length < 2 or size > LARGEST:
            raise ValueError(
                f"MarkovChain needs sequences of 2 or more elements of at most {LARGEST} numbers: dimension {self.dim}"
                f" of samples {list(shape)} has {length} of {size}; set dim to another one"
            )
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("moments", torch.zeros(2 * size + 1, 2 * size + 1))

    def pairs(self, x: Tensor) -> Tensor:
        """Samples [B, ...] -> (x_{t-1}, 1, x_t) of all steps [B * (T - 1), 2 * size + 1]."""
        rows = x.float().movedim(self.dim, 1).flatten(2)
        before, after = rows[:, :-1].flatten(0, 1), rows[:, 1:].flatten(0, 1)
        return torch.cat([before, torch.ones_like(before[:, :1]), after], 1)

    @torch.no_grad()
    def observe(self, real: Tensor) -> None:
        """Adds the real images [B, ...] of all processes to the moments."""
        pairs = self.pairs(real)
        moments = pairs.T @ pairs / len(pairs)
        average_([moments])
        self.count += 1
        self.moments.lerp_(moments, 1 / self.count)

    def chain(self) -> tuple[Tensor, Tensor, Tensor]:
        """[A b]' [size + 1, size], the Cholesky factor of S, and E ||L^-1 (x_t - A x_{t-1} - b)||^2 over the data."""
        size = len(self.moments) // 2
        past, cross, now = self.moments[:-size, :-size], self.moments[:-size, -size:], self.moments[-size:, -size:]
        penalty = self.ridge * torch.eye(size + 1, device=past.device)
        penalty[-1, -1] = 0.0  # of the constant
        maps = torch.linalg.solve(past + penalty, cross)
        residual = now - maps.T @ cross - cross.T @ maps + maps.T @ past @ maps
        factor = torch.linalg.cholesky(residual + self.ridge * torch.eye(size, device=past.device))
        return maps, factor, torch.cholesky_solve(residual, factor).trace()

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        with torch.autocast(fake.device.type, enabled=False):
            self.observe(real)
            maps, factor, of_real = self.chain()
            pairs, size = self.pairs(model.measurement.beside(fake, real)), len(factor)
            residual = pairs[:, -size:] - pairs[:, :-size] @ maps
            of_fake = torch.linalg.solve_triangular(factor, residual.T, upper=False).square().sum(0).mean()
            # log p = -||L^-1 e||^2 / 2 + a constant that cancels
            return ((of_fake - of_real) / (2 * size)).square()
