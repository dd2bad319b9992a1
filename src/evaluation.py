"""How a generator is shown and scored: in validation, in `test`, in `predict` and in the grids of a run."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from src import seeding
from src.distributed import average_, batch_norm_statistics
from src.metrics.base import Metric
from src.networks.base import Generator
from src.pixels import to_uint8

BLOCK = 16  # samples that the generator draws at once


class Evaluation(LightningModule):
    """The half of `GAN` that does not train.

    Attributes:
        generator: current weights.
        generator_ema: averaged weights, which are the ones evaluated; None without an average.
        metrics: plain objects, so that their networks never reach a checkpoint.
        seed: of the samples.
        trained_steps: of the checkpoint that was loaded.
        results: name, value and protocol of each metric, after an evaluation.
    """

    generator: Generator
    generator_ema: Generator | None
    metrics: list[Metric]
    seed: int

    def __init__(self):
        super().__init__()
        self.trained_steps = 0
        self.results: list[dict[str, Any]] = []

    @torch.no_grad()
    def sample(self, indices: Tensor, condition: Any = None) -> Tensor:
        """Images of the averaged generator, each a function of `(seed, its index)` and its condition, to the last bit.

        Args:
            indices: [B], numbers of the samples, from 0.
            condition: what the generator is conditioned on, [B] class labels for instance.

        Returns:
            float32 images [B, C, H, W] in [-1, 1].
        """
        network = self.generator_ema or self.generator
        noise = [seeding.normal(network.latent_shape, self.seed, seeding.SAMPLES, i) for i in indices.tolist()]
        indices, latents = indices.to(self.device), torch.stack(noise).to(self.device) if noise else None
        images = torch.empty(len(indices), network.channels, *network.image_size, device=self.device)
        training = network.training
        network.eval()
        try:
            # Kernels round differently for other batch sizes: sample i is always row i % BLOCK of a batch of BLOCK.
            for block in (indices // BLOCK).unique():
                here = indices // BLOCK == block
                rows = indices[here] % BLOCK
                z, c = tree_map_only(
                    Tensor, lambda t, here=here, rows=rows: spread(t[here], rows), (latents, condition)
                )
                with torch.autocast(self.device.type, enabled=False):
                    images[here] = network(z, c)[rows].float()
        finally:
            network.train(training)
        return images

    def setup(self, stage: str) -> None:
        for metric in self.metrics:  # a missing file of weights is known before the first step
            metric.setup(self.device)

    def start_evaluation(self) -> None:
        """Brings the processes to agree on batch-norm statistics, and collects those of the real images once."""
        average_(batch_norm_statistics(self))
        if self.trainer.sanity_checking:
            return
        rank, world_size = self.global_rank, self.trainer.world_size
        for metric in self.metrics:
            metric.setup(self.device)
            metric.reset()
            if not metric.has_real:
                real = self.trainer.datamodule.real_batches(metric.split, rank, world_size)
                for images in tqdm(
                    real, f"features of the real {metric.split} images", leave=False, disable=rank or None
                ):
                    metric.update(images.to(self.device), real=True)

    def score(self, batch: Any) -> None:
        """Shows one batch of samples to every metric."""
        if self.trainer.sanity_checking:
            return
        images = to_uint8(self.sample(*batch))
        for metric in self.metrics:
            metric.update(images, real=False)

    def finish_evaluation(self, prefix: str) -> None:
        if self.trainer.sanity_checking:
            return
        self.results = [
            {"name": metric.name, "value": metric.compute(), "protocol": metric.protocol() | self.protocol()}
            for metric in self.metrics
        ]
        values = {f"{prefix}/{result['name']}": result["value"] for result in self.results}
        self.log_dict(values, logger=False)  # for the callbacks; the loggers count steps as every other curve does
        for logger in self.loggers:
            logger.log_metrics(values, step=self.global_step)

    def protocol(self) -> dict[str, Any]:
        return {
            "generator": "average" if self.ema else "current",
            "seed": self.seed,
            "step": self.global_step or self.trained_steps,
            "precision": "float32",
        }

    def on_validation_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.score(batch)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def on_test_start(self) -> None:
        self.start_evaluation()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.score(batch)

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return to_uint8(self.sample(*batch))


def spread(values: Tensor, rows: Tensor) -> Tensor:
    """A batch of BLOCK that holds `values` in `rows` and zeros elsewhere."""
    return values.new_zeros(BLOCK, *values.shape[1:]).index_copy_(0, rows, values)
