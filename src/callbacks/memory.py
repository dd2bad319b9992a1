"""What to do when a GPU has too little memory for the batch."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

SHARE = 0.9  # of the GPU's memory that is counted on


class MemoryAdvice(Callback):
    """Turns "out of memory" on a GPU into a line that names a batch that would fit.

    Weights, averages and optimizer states need the same memory for any batch; what else was in use when the memory ran
    out is taken to be in proportion to the images held at once. The step did not get to its end, so this is the least
    that it needs: the batch named is an upper bound.
    """

    needs_data = True  # a data module of src.data

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        out = isinstance(exception, torch.OutOfMemoryError) and pl_module.device.type == "cuda"
        if not out or trainer.state.fn != "fit":
            return
        device = pl_module.device
        state = [tensor for opt in trainer.optimizers for state in opt.state.values() for tensor in state.values()]
        held = [*pl_module.parameters(), *pl_module.buffers(), *filter(torch.is_tensor, state)]
        fixed = sum(tensor.numel() * tensor.element_size() for tensor in held)
        peak = max(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))
        total = torch.cuda.get_device_properties(device).total_memory
        batch_size = trainer.datamodule.batch_size
        parts = trainer.world_size * pl_module.accumulate
        raise ValueError(advice(batch_size, parts, pl_module.accumulate, fixed, peak, total)) from exception


def advice(batch_size: int, parts: int, accumulate: int, fixed: int, peak: int, total: int) -> str:
    """The line that is said.

    Args:
        batch_size: of the data, over all processes and parts.
        parts: into which it was cut.
        accumulate: of these, in one process.
        fixed: bytes that do not depend on the batch.
        peak: bytes in use when the memory ran out.
        total: bytes of the GPU.
    """
    at_once = batch_size // parts
    per_image = max(peak - fixed, 1) / at_once
    fitting = min(int((SHARE * total - fixed) / per_image), at_once - 1)
    said = f"the GPU's memory of {total / 2**30:.1f} GiB is too small for {at_once} images at once"
    if fitting < 1:
        return f"{said}, and for one: choose smaller networks or smaller images"
    factors = [n for n in range(2, at_once + 1) if at_once % n == 0 and at_once // n <= fitting]
    return (
        f"{said}; at most {fitting} fit: --model.accumulate {accumulate * factors[0]} holds fewer at once (the same"
        f" result, but for batch norm), --data.batch_size {fitting * parts} is a smaller batch"
    )
