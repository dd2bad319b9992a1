"""Several processes without a wrapper: replicas start equal and stay equal by averaging explicitly.

`DistributedDataParallel` reduces both networks at every backward pass of a two-player step and, in manual
optimization, stops broadcasting buffers after the first one. Here only the gradients of the network that is stepped
travel, once an optimizer step, as in StyleGAN3's training loop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BUCKET = 25 * 2**20  # bytes, as in `DistributedDataParallel`


class ExplicitDDP(DDPStrategy):
    """Data-parallel processes whose training step averages its own gradients."""

    def configure_ddp(self) -> None:
        _sync_module_states(self.model)


for _name, _start_method in (("ddp", "popen"), ("ddp_spawn", "spawn"), ("ddp_fork", "fork"), ("ddp_notebook", "fork")):
    # What `--trainer.devices 4` selects by itself is called "ddp": give that name to the strategy above.
    StrategyRegistry.register(
        _name, ExplicitDDP, description=ExplicitDDP.__doc__, override=True, start_method=_start_method
    )


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average_(tensors: list[Tensor]) -> None:
    """Replaces each tensor by its mean over all processes, in place, in one collective.

    Args:
        tensors: floating point, of equal shapes on every process; nothing happens with one process.
    """
    if world_size() > 1 and tensors:
        begin_average(tensors)()


def begin_average(tensors: list[Tensor]) -> Callable[[], None]:
    """Sends what `average_` averages; the function that it returns waits for the sum, and puts the means in place."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    work = dist.all_reduce(flat, async_op=True)

    def finish() -> None:
        work.wait()
        means = flat.div_(world_size()).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    return finish


@contextmanager
def averaging_on_the_way(weights: list[Tensor]) -> Iterator[None]:
    """Averages the gradients of some weights that the one backward pass inside completes; the same as `average_` after.

    They travel in buckets, each as soon as all of its gradients are there, while the pass computes the others: as in
    `DistributedDataParallel`, Section 3.2.3 of arXiv:2006.15704. The buckets leave in their order, on every process;
    what the pass does not reach, and has a gradient of an earlier pass or none, leaves at the end.

    Args:
        weights: of one player, which need gradients; those of its last layers, whose gradients come first, at the end.
    """
    buckets = in_buckets(weights[::-1])
    place = {weight: number for number, bucket in enumerate(buckets) for weight in bucket}
    missing = [len(bucket) for bucket in buckets]
    sent: list[Callable[[], None]] = []

    def send() -> None:
        gradients = [weight.grad for weight in buckets[len(sent)] if weight.grad is not None]
        sent.append(begin_average(gradients) if gradients else lambda: None)

    def note(weight: Tensor) -> None:
        missing[place[weight]] -= 1
        while len(sent) < len(buckets) and not missing[len(sent)]:
            send()

    handles = [weight.register_post_accumulate_grad_hook(note) for weight in weights]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    while len(sent) < len(buckets):
        send()
    for finish in sent:
        finish()


def in_buckets(weights: list[Tensor]) -> list[list[Tensor]]:
    """Weights in their order, cut where BUCKET bytes are reached."""
    buckets: list[list[Tensor]] = []
    room = 0
    for weight in weights:
        if room <= 0:
            buckets.append([])
            room = BUCKET
        buckets[-1].append(weight)
        room -= weight.nbytes
    return buckets


def overlaps(wanted: bool) -> bool:
    """Whether gradients are averaged on the way; one process has nothing to average, and says so."""
    if wanted and world_size() == 1:
        rank_zero_info("model.overlap_reduce changes nothing: there is one process")
    return wanted and world_size() > 1


def largest(number: int, device: torch.device) -> int:
    """The largest of the numbers that the processes hold; every process gets it."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    numbers = torch.tensor(number, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def batch_norm_statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances inside `module`, which every process gathers from its own images.

    Other layers name such buffers in `gathered`.
    """
    found = []
    for layer in module.modules():
        names = getattr(layer, "gathered", ())
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            names = ("running_mean", "running_var")
        found += [getattr(layer, name) for name in names]
    return found
