"""Statistics of batch normalization for evaluation, measured with the weights that are evaluated."""

from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from src.engine.batch_norm import has_batch_norm, measure_batch_norm_


class StandingStatistics(Callback):
    """Measures the batch-norm statistics of the averaged generator anew, for every validation and checkpoint.

    Otherwise they are those of the last training batches, of other weights than the averaged ones. Mean and variance
    are averages over batches, as training normalizes each batch by its own. The samples are the first of an evaluation.

    Args:
        batches: number of them, at least 1; 16 in ajbrock/BigGAN-PyTorch, 100 in its U-Net descendant.
        batch_size: images of one, at least 2; that of training makes them what training sees.

    Raises:
        ValueError: for numbers below these, or a run without a moving average or batch normalization.

    Source: "standing statistics", arXiv:1809.11096, Section 3.1 and Appendix B.
    """

    needs_data = True  # a data module of src.data

    def __init__(self, batches: int = 100, batch_size: int = 64):
        if batches < 1 or batch_size < 2:
            raise ValueError(
                f"StandingStatistics needs batches >= 1 and batch_size >= 2, got {batches} and {batch_size}"
            )
        self.batches, self.batch_size = batches, batch_size
        self.step = -1  # at which they were measured last

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not pl_module.ema or not has_batch_norm(pl_module.generator):
            raise ValueError(
                "StandingStatistics needs batch normalization in the generator and model.ema, whose statistics it"
                " replaces: set them, or leave it out"
            )
        if stage != "predict":
            rank_zero_info(f"StandingStatistics: batch norm is measured on {self.batches} x {self.batch_size} samples")

    @torch.no_grad()
    def measure(self, trainer: Trainer, model: LightningModule) -> None:
        if model.global_step == self.step:
            return
        self.step = model.global_step
        batches = torch.arange(self.batches * self.batch_size).split(self.batch_size)
        inputs = ((model.latents_of(indices), trainer.datamodule.conditions(indices)) for indices in batches)
        measure_batch_norm_(model.generator_ema, (move_data_to_device(batch, model.device) for batch in inputs))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.measure(trainer, pl_module)  # in place: the tensors in `checkpoint` are these
