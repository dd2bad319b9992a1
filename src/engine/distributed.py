"""Several processes without a wrapper: replicas start equal and stay equal by averaging explicitly.

`DistributedDataParallel` reduces both networks at every backward pass of a two-player step and, in manual
optimization, stops broadcasting buffers after the first one. Here only the gradients of the network that is stepped
travel, once an optimizer step, as in StyleGAN3's training loop.
"""

import torch
import torch.distributed as dist
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


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
