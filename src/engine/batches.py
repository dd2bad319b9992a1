"""Batches of any structure, cut and joined."""

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
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


def in_blocks(
    network: Callable[..., Tensor], indices: Tensor, inputs: tuple, output_shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """What a network makes of samples, each to the last bit whatever the others.

    Kernels round differently for other batch sizes: sample i is always row i % BLOCK of a batch of BLOCK.

    Args:
        network: of which a row of the output follows from that row of the inputs.
        indices: [B], numbers of the samples.
        inputs: of the network, [B, ...] each.
        output_shape: of a sample.
        device: of the network.

    Returns:
        float32 [B, *output_shape], on the device.
    """
    seen = defaultdict(count)  # a number that comes again, with another condition for instance, needs its row again
    turns = torch.tensor([next(seen[index]) for index in indices.tolist()], dtype=torch.int64)
    batches = torch.stack([indices.cpu() // BLOCK, turns], 1)
    indices, inputs = move_data_to_device((indices, inputs), device)
    outputs = torch.empty(len(indices), *output_shape, device=device)
    for batch in batches.unique(dim=0):
        here = (batches == batch).all(1).to(device)
        rows = indices[here] % BLOCK
        block = tree_map_only(Tensor, lambda t, here=here, rows=rows: spread(t[here], rows), inputs)
        outputs[here] = network(*block)[rows].float()
    return outputs


def spread(values: Tensor, rows: Tensor) -> Tensor:
    """A batch of BLOCK that holds `values` in `rows` and zeros elsewhere."""
    return values.new_zeros(BLOCK, *values.shape[1:]).index_copy_(0, rows, values)
