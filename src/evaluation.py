"""How a generator is shown and scored: in validation, in `test`, in `predict` and in the grids of a run."""

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from src.engine import seeding
from src.engine.batches import in_blocks
from src.engine.distributed import average_, batch_norm_statistics, largest
from src.engine.modes import evaluating
from src.images.loaders import Loading
from src.images.pixels import to_uint8
from src.metrics.base import Metric, Score, key_of
from src.metrics.features import exact_float32
from src.metrics.kept import real_features
from src.metrics.statistics import Collector, Features
from src.metrics.weights import MissingWeights
from src.networks.base import Generator

FEATURES = ".cache/features"  # where those of real images are kept


class Evaluation(Loading):
    """The half of `GAN` that does not train.

    Attributes:
        generator: current weights.
        generator_ema: averaged weights, which are the ones evaluated; None without an average.
        metrics: plain objects, so that their networks never reach a checkpoint.
        seed: of the samples.
        val_images: images generated for each validation.
        test_images: images generated for `test`.
        trained_steps: of the checkpoint that was loaded.
        results: name, value and protocol of each metric, after an evaluation.
        lacking: metrics whose weights are not to be had, and why.
        unmet: metrics that `test` cannot compute of these data, and why.
    """

    generator: Generator
    generator_ema: Generator | None
    metrics: list[Score]
    seed: int
    val_images: int
    test_images: int

    def __init__(self):
        super().__init__()
        self.trained_steps = 0
        self.results: list[dict[str, Any]] = []
        self.lacking: dict[Score, MissingWeights] = {}
        self.unmet: dict[Score, str] = {}
        self.reals: dict[str, Features] = {}
        self.fakes: dict[str, Features] = {}
        self.other: Metric | None = None  # the first one, against the other split

    def latents_of(self, indices: Tensor) -> Tensor:
        """The latents [B, *latent_shape] of samples, on the CPU: functions of `(seed, index)`."""
        shape = self.generator.latent_shape
        noise = [seeding.normal(shape, self.seed, seeding.SAMPLES, i) for i in indices.tolist()]
        return torch.stack(noise) if noise else torch.empty(0, *shape)

    @property
    def average(self) -> Generator:
        """The generator that is shown and scored: the averaged one, or the current one where nothing is averaged."""
        return self.generator_ema or self.generator

    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Samples [B, *output_shape] of the averaged generator as it evaluates, from latents [B, *latent_shape]."""
        with evaluating(self.average) as generator:
            return generator(z, condition)

    @torch.no_grad()
    def sample(self, indices: Tensor, condition: Any = None) -> Tensor:
        """Images of the averaged generator, each a function of `(seed, its index)` and its condition, to the last bit.

        Args:
            indices: [B], numbers of the samples, from 0.
            condition: what the generator is conditioned on, [B] class labels for instance.

        Returns:
            float32 samples [B, *output_shape], images [B, C, H, W] in [-1, 1] as a rule.
        """
        return self.drawn(self.average, indices, self.latents_of(indices), condition)

    def shown(self, indices: Tensor, condition: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images uint8 [M, C, H, W] of samples, their numbers, and labels or None; arguments as of `sample`."""
        return self.generator.as_images(to_uint8(self.sample(indices, condition)), indices, condition)

    def drawn(self, network: Callable[..., Tensor], indices: Tensor, *inputs: Any) -> Tensor:
        """What a function of the averaged generator makes of each sample, to the last bit whatever the others.

        Args:
            network: the generator, or a part of it.
            indices: [B], numbers of the samples.
            inputs: of `network`, whose tensors have a row a sample.
        """
        with evaluating(self.average), exact_float32(self.device):
            return in_blocks(network, indices, inputs, self.generator.output_shape, self.device)

    def setup(self, stage: str) -> None:
        if self.from_elsewhere and stage != "predict":
            return self.check_elsewhere(stage)
        self.load_metrics(stage)
        self.check_numbers(stage)

    def check_numbers(self, stage: str) -> None:
        """Refuses, before the first step, data of which this run cannot compute its figures; says what else cannot be.

        Raises:
            ValueError: a metric of this run takes more images than there are, or others.
        """
        data, validates = self.trainer.datamodule, self.trainer.limit_val_batches != 0
        needed = [] if stage == "fit" and not validates else self.scoring()
        self.unmet = {}
        for metric in (metric for metric in self.metrics if metric not in self.lacking):
            tests = self.trainer.testing or metric not in needed
            try:
                metric.check(data, self.test_images if tests else self.val_images)
            except ValueError as error:
                if metric in needed:
                    raise
                self.unmet[metric] = str(error)
        if self.unmet:
            rank_zero_info(f"`test` will be refused: {'; '.join(self.unmet.values())}")
        self.other = None
        if self.trainer.testing and self.first_metric and {"train", "test"} <= set(data.splits):
            self.other = copy(self.first_metric)
            self.other.split = "test" if self.other.split == "train" else "train"
            try:
                self.other.check(data, self.test_images)
            except ValueError as error:
                rank_zero_warn(f"the {data.num_images('test')} held-out images are too few to compare with: {error}")
                self.other = None

    def load_metrics(self, stage: str) -> None:
        """Loads what the metrics need, before the first step; where it is not to be had, `fit` goes on without.

        Raises:
            MissingWeights: of any other stage than "fit", whose result would be a part of what was asked for.
        """
        told, self.lacking = self.lacking, {}
        for metric in self.metrics:
            error = None
            try:
                metric.setup(self.device, self.first_metric and self.first_metric.extractor)
            except MissingWeights as missing:
                error = missing
            if largest(int(error is not None), self.device):  # all processes compute a figure, or none
                self.lacking[metric] = error or MissingWeights("the weights are missing on another machine")
        if not self.lacking or told:
            return
        error = next(iter(self.lacking.values()))
        if stage != "fit":
            raise error
        names = named(self.lacking)
        selects = "best.ckpt is kept as ever" if self.scoring() else "no best.ckpt is kept, last.ckpt is the newest"
        rank_zero_info(f"{error}. Training goes on without {names}: {selects}")

    def untested(self) -> str:
        """Why `test` will be refused, in a few words; "" if it will not be."""
        if self.from_elsewhere:
            return "`test` needs a data module of src.data"
        if not self.metrics:
            return "`test` needs --model.metrics, FrechetDistance for one"
        needs = {"the weights for": self.lacking, "other data for": self.unmet}
        told = " and ".join(f"{what} {named(metrics)}" for what, metrics in needs.items() if metrics)
        return told and f"`test` needs {told}, or other --model.metrics"

    @property
    def first_metric(self) -> Metric | None:
        """The first that compares features; its extractor is that of the metrics that name none."""
        return next((metric for metric in self.metrics if isinstance(metric, Metric)), None)

    def start_evaluation(self) -> None:
        """Brings the processes to agree on batch-norm statistics, and starts collecting features, once an extractor."""
        average_(batch_norm_statistics(self))
        self.collectors: dict[str, Collector] = {}
        for metric in self.scoring():
            metric.setup(self.device, self.first_metric and self.first_metric.extractor)
            if isinstance(metric, Metric):
                self.collectors.setdefault(key_of(metric), Collector(metric.extractor))

    def scoring(self) -> list[Score]:
        """All metrics in `test`; in validation the first alone, which selects the best checkpoint, to save time."""
        if self.from_elsewhere:
            return []
        return self.metrics if self.trainer.testing else [m for m in self.metrics[:1] if m not in self.lacking]

    def score(self, batch: Any) -> None:
        """Shows one batch of samples to every extractor."""
        watching = [metric for metric in self.scoring() if metric.watches]
        if self.trainer.sanity_checking or not (self.collectors or watching):
            return
        indices, condition = batch
        if len(indices) == 0:
            return
        shown = self.shown(indices, condition)
        for collector in self.collectors.values():
            collector.update(*shown)
        for metric in watching:
            metric.observe(*shown)

    def finish_evaluation(self, prefix: str) -> None:
        if self.trainer.sanity_checking:
            return
        self.fakes = {key: collector.gather() for key, collector in self.collectors.items()}
        self.results = []
        for metric in self.scoring():
            self.results += metric.directed(metric.evaluate(self, errors=self.trainer.testing))
        if self.other:
            self.results += self.other.directed(self.floor(self.first_metric, self.other))
        values = {f"{prefix}/{result['name']}": result["value"] for result in self.results}
        errors = {f"{prefix}/{r['name']}-error": r["error"] for r in self.results if r["error"] is not None}
        short = {f"{prefix}/{metric.short_name}": self.results[0]["value"] for metric in self.scoring()[:1]}
        self.publish(short | values | errors)

    def publish(self, curves: dict[str, float]) -> None:
        """Sends what the first process knows to the loggers and, on all of them, to the callbacks that monitor a curve.

        Straight: each `self.log` costs 0.3 ms at every step, also at those that do not log.
        """
        curves = self.trainer.strategy.broadcast(curves)
        self.trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in curves.items()})
        for logger in self.loggers:
            logger.log_metrics(curves, step=self.global_step)

    def figure_names(self) -> list[str]:
        """The curves of a validation."""
        names = [f"val/{name}" for metric in self.scoring() for name in metric.names]
        narrow = [metric for metric in self.scoring() if metric.has_errors(self.val_images)]
        names += [f"val/{name}-error" for metric in narrow for name in metric.names]
        return names + [name for metric in self.scoring()[:1] if (name := f"val/{metric.short_name}") not in names]

    def floor(self, metric: Metric, other: Metric) -> list[dict[str, Any]]:
        """The samples against the other split, and what held-out real images score, as many generated ones beside."""
        real, held_out, fake = self.real(metric, "train"), self.real(metric, "test"), self.fakes[key_of(metric)]
        number = min(len(held_out), len(fake))
        against_training = copy(metric)
        against_training.split = "train"
        protocol = self.protocol() | {"real_data": self.trainer.datamodule.digest("train")[:8]}
        try:
            figures = other.evaluate(self, errors=True)
            for kind, features in (("held-out", held_out), ("generated", fake)):
                figures += against_training.figures(real, features.some(number), True, protocol)[:1]
                figures[-1]["name"] += f"-of-{number}-{kind}"
        except ValueError as error:
            rank_zero_warn(f"the {len(held_out)} held-out images are too few to compare with: {error}")
            return []
        return figures

    def real(self, metric: Metric, split: str) -> Features:
        """Features of the real images that a metric compares with: computed once, then read from disk."""
        key = key_of(metric) + split
        if key not in self.reals:
            data = self.trainer.datamodule
            rank, world_size = self.global_rank, self.trainer.world_size
            self.reals[key] = real_features(
                data.real_batches(split, rank, world_size), data.split(split)[1], data.num_images(split),
                data.fingerprint(split), metric.extractor, FEATURES, rank, world_size,
            )  # fmt: skip
        return self.reals[key]

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

    on_test_start, test_step = on_validation_start, validation_step

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.shown(*batch)


def named(metrics: Iterable[Score]) -> str:
    return ", ".join(type(metric).__name__ for metric in metrics)
