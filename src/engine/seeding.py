"""Random numbers as a function of what they are for, never of what was drawn before."""

from hashlib import blake2b

import torch
from torch import Tensor

# What a draw is for: the first word of its key.
ORDER, DISCRIMINATOR, GENERATOR, WARMUP, MODULES, SAMPLES, BAGS, RECORDINGS, DROPOUT, MEASUREMENTS, TYPICAL = range(11)


def mix(seed: int, *key: int) -> int:
    """One well-mixed 63-bit seed for `(seed, *key)`."""
    return int.from_bytes(blake2b(repr((seed, *key)).encode(), digest_size=8).digest(), "little") >> 1


def normal(shape: tuple[int, ...], seed: int, *key: int) -> Tensor:
    """Standard normal noise keyed by `(seed, *key)`, drawn on the CPU because a GPU's stream depends on its model."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(mix(seed, *key)))


def seed_modules(device: torch.device, seed: int, *key: int) -> None:
    """Starts the streams that dropout and other layers draw from, on the CPU and on `device`, at `(seed, *key)`.

    `torch.manual_seed` would do, but notes a stack trace for each backend not in use yet: 0.6 ms a call.
    """
    mixed = mix(seed, MODULES, *key)
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)
    elif device.type == "mps":
        torch.mps.manual_seed(mixed)
