"""What every figure of merit offers to the evaluation."""

import math
from contextlib import suppress
from typing import Any, Literal

import torch

from src.metrics.features import Extractor, Inception
from src.metrics.statistics import Features

GROUPS = 10  # of the jackknife


class Score:
    """Figures of merit of a model.

    A plain object, not a module: nothing of it lands in a checkpoint. A subclass states `figure_names` and implements
    `evaluate`; the first name selects `best.ckpt`.
    """

    figure_names: tuple[str, ...]
    higher_is_better: bool = False

    def setup(self, device: torch.device | str, shared: Extractor | None = None) -> None:
        """Loads what the figures need onto a device; arguments as of `Metric.setup`."""

    @property
    def names(self) -> list[str]:
        """Names of the figures; known after `setup`."""
        return list(self.figure_names)

    @property
    def name(self) -> str:
        return self.names[0]

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        """Computes the figures, the same ones on every process, all of which call it.

        Args:
            model: the `GAN`, with its data at `model.trainer.datamodule` and its `protocol()`.
            errors: whether to estimate standard errors, where that takes time.

        Returns:
            Dictionaries with name, value, error (or None) and protocol.
        """
        raise NotImplementedError


class Metric(Score):
    """Figures of merit of generated images against real ones, computed from their features.

    A subclass states `figure_names` and implements `values`.

    Args:
        extractor: what computes the features; by default that of the first metric, and Inception for the first.
        split: real images to compare with. The literature compares with the training images.
    """

    def __init__(self, extractor: Extractor | None = None, split: Literal["train", "test"] = "train"):
        self.extractor = extractor
        self.split = split

    def setup(self, device: torch.device | str, shared: Extractor | None = None) -> None:
        """Loads the extractor onto a device.

        Args:
            device: where features are computed.
            shared: extractor of a metric that names none.

        Raises:
            FileNotFoundError: weights are missing.
            ValueError: weights cannot be used.
        """
        self.extractor = self.extractor or shared or Inception()
        self.extractor.to(device).load()

    @property
    def suffix(self) -> str:
        """Tells figures on other features than Inception's, and against held-out images, from those one expects."""
        distance = self.extractor.distance
        features = "" if distance == "fid" else "-" + distance.removeprefix("fcd-").removeprefix("fd-")
        return features + ("" if self.split == "train" else f"-{self.split}")

    @property
    def names(self) -> list[str]:
        """Names of the figures; known after `setup`."""
        return [name + self.suffix for name in self.figure_names]

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        real, fake = model.real(self, self.split), model.fakes[key_of(self)]
        return self.figures(real, fake, errors, model.protocol())

    def values(self, real: Features, fake: Features) -> list[float]:
        """The figures, in the order of `figure_names`: a pure function."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """What else the figures depend on."""
        return {}

    def figures(self, real: Features, fake: Features, errors: bool, protocol: dict[str, Any]) -> list[dict[str, Any]]:
        """Each figure with its standard error and how it came about.

        The error is that of a delete-a-group jackknife over ten groups of the generated images (every tenth one). A
        bootstrap would be biased: it repeats images, which shrinks the covariance and the distances to neighbours.

        Args:
            real: features of the real images.
            fake: features of the generated images.
            errors: whether to estimate errors, at ten times the cost.
            protocol: what the caller knows: seed, step, ...

        Returns:
            Dictionaries with name, value, error (or None) and protocol.
        """
        values = self.values(real, fake)
        deviations: list[float | None] = [None] * len(values)
        if errors and len(fake) >= 2 * GROUPS:
            groups = torch.arange(len(fake)) % GROUPS
            with suppress(ValueError):  # without a group too few may be left, of a class for instance: then no error
                without = torch.tensor([self.values(real, fake.select(groups != g)) for g in range(GROUPS)])
                spread = (without - without.mean(0)).square().sum(0)
                deviations = [math.sqrt(s * (GROUPS - 1) / GROUPS) for s in spread.tolist()]
        facts = {
            "num_real": len(real),
            "num_fake": len(fake),
            "split": self.split,
            "extractor": self.extractor.describe(),
        }
        return [
            {"name": name, "value": value, "error": error, "protocol": facts | self.options() | protocol}
            for name, value, error in zip(self.names, values, deviations, strict=True)
        ]


def key_of(metric: Metric) -> str:
    """The same for metrics that can share features."""
    return repr(metric.extractor.describe())
