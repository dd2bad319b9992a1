"""Batch normalization: where there is any, and its statistics, measured on batches that are given."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def measure_batch_norm_(network: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Replaces the running means and variances by their averages over batches, each normalized by its own.

    Args:
        network: in evaluation, which it is afterwards, too.
        batches: arguments of the network.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in batches:
        network(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
