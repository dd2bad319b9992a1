"""Batches of any structure, cut and joined."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

BLOCK = 16  # samples that a generator draws at once
# Images of one evaluation chunk, which belongs to process chunk mod world size: fixed, so that samples do not depend on
# the number of processes, and whole blocks, because one that two chunks shared would be drawn twice.
EVAL_BATCH = 4 * BLOCK


def pieces(batch: Any, count: int) -> list[Any]:
    """Cuts every tensor of a batch into `count` equal pieces along its first dimension."""
    if count == 1:
        return [batch]
    return [tree_map_only(Tensor, lambda t, i=i: t.view(count, -1, *t.shape[1:])[i], batch) for i in range(count)]


def join(batches: list[Any]) -> Any:
    """Joins batches of one structure along the first dimension of their tensors."""
    if len(batches) == 1:
        return batches[0]
    return tree_map(lambda *tensors: None if tensors[0] is None else torch.cat(tensors), *batches)


def spread(values: Tensor, rows: Tensor) -> Tensor:
    """A batch of BLOCK that holds `values` in `rows` and zeros elsewhere."""
    return values.new_zeros(BLOCK, *values.shape[1:]).index_copy_(0, rows, values)
