"""Networks as they evaluate, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """A network in the mode of evaluation; then it is in the mode that it was in."""
    training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(training)
