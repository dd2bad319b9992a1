"""Random numbers as a function of what they are for, never of what was drawn before."""

import numpy as np
import torch
from torch import Tensor

# What a draw is for: the first word of its key.
DISCRIMINATOR, GENERATOR, WARMUP, MODULES, SAMPLES = range(5)


def mix(seed: int, *key: int) -> int:
    """One well-mixed 64-bit seed for `(seed, *key)`; all non-negative."""
    return int(np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)[0])


def normal(shape: tuple[int, ...], seed: int, *key: int) -> Tensor:
    """Standard normal noise keyed by `(seed, *key)`, drawn on the CPU because a GPU's stream depends on its model."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(mix(seed, *key)))
