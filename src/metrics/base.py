"""What every figure of merit offers to the evaluation."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from src.engine.descriptions import Part
from src.metrics.features import Extractor, Inception
from src.metrics.statistics import GROUPS, Features

REMEDIES = {
    "real": "add some, or choose other metrics",
    "generated": "raise --model.test_images and --model.val_images, or generate more",
}

NARROW = 128  # features: the error of a Frechet distance takes 0.1 s of so many, and 30 s of 2,048 (1,000 samples)


class Score(Part, ABC):
    """Figures of merit of a model.

    A plain object, not a module: nothing of it lands in a checkpoint. A subclass states `figure_names` and implements
    `evaluate`; the first name selects `best.ckpt`.
    """

    figure_names: tuple[str, ...]
    higher_is_better: bool = False
    split: str | None = None  # that the figures need
    watches: bool = False  # whether `observe` is to be shown the samples
    asks_discriminator: bool = False

    def check(self, data: Any, num_fake: int) -> None:
        """Refuses data that hold fewer images than the figures take; called before the first step, after `setup`.

        Args:
            data: the data module.
            num_fake: number of images that will be generated.

        Raises:
            ValueError: what is missing, and the remedy.
        """
        if self.split and self.split not in data.splits:
            raise ValueError(
                f"{type(self).__name__} needs {self.split} images, and the data have none: name some"
                " (--data.test_root or --data.test_path of those that take it), or choose other --model.metrics"
            )

    def setup(self, device: torch.device | str, shared: Extractor | None = None) -> None:
        """Loads what the figures need onto a device; arguments as of `Metric.setup`."""

    @property
    def names(self) -> list[str]:
        """Names of the figures; known after `setup`."""
        return list(self.figure_names)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def short_name(self) -> str:
        """The name of the first figure without that of the features: a curve of its own, which sweeps can rely on."""
        return self.name

    def observe(self, images: Tensor, indices: Tensor, labels: Tensor | None) -> None:
        """Is shown every batch of this process's samples before `evaluate`; arguments as of `Collector.update`."""

    def has_errors(self, num_images: int) -> bool:
        """Whether a validation of so many images has the errors of its figures, too; known after `setup`."""
        return False

    @abstractmethod
    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        """Computes the figures, the same ones on every process, all of which call it.

        Args:
            model: the `GAN`, with its data at `model.trainer.datamodule` and its `protocol()`.
            errors: whether to estimate standard errors, even where that takes time: not in validation.

        Returns:
            Dictionaries with name, value, error (or None) and protocol.
        """

    def directed(self, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Figures with `higher_is_better`, None where that is not known; a figure that has it of itself keeps it."""
        return [{"higher_is_better": self.higher_is_better} | figure for figure in figures]


class Metric(Score):
    """Figures of merit of generated images against real ones, computed from their features.

    A subclass states `figure_names` and implements `values`.

    Args:
        extractor: what computes the features; by default that of the first metric, and Inception for the first.
        split: real images to compare with. The literature compares with the training images.
    """

    of_sums: bool = False  # of mean and covariance, so that no features of single images are needed
    of_classes: bool = False  # that the extractor tells apart
    least: int = 2  # real images, and generated ones, that the figures take

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
            ValueError: weights cannot be used, or know no classes where the figures need some.
        """
        self.extractor = self.extractor or shared or Inception()
        self.extractor.to(device).load()
        if self.of_classes:
            check_classifies(self, self.extractor)

    def check(self, data: Any, num_fake: int) -> None:
        super().check(data, num_fake)
        self.require(self.least, data.num_images(self.split), num_fake)

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

    @property
    def short_name(self) -> str:
        return self.name.replace("-" + self.extractor.distance.removeprefix("fcd-").removeprefix("fd-"), "")

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        real, fake = model.real(self, self.split), model.fakes[key_of(self)]
        protocol = model.protocol() | {"real_data": model.trainer.datamodule.digest(self.split)[:8]}
        return self.figures(real, fake, errors or self.extractor.num_features <= NARROW, protocol)

    def has_errors(self, num_images: int) -> bool:
        return self.extractor.num_features <= NARROW and num_images >= 2 * GROUPS

    @abstractmethod
    def values(self, real: Features, fake: Features) -> list[float]:
        """The figures, in the order of `figure_names`: a pure function."""

    def jackknife(self, real: Features, fake: Features) -> tuple[list[float], list[list[float]] | None]:
        """The figures, and those without each group of the generated images; None if too few images would be left."""
        values = self.values(real, fake)
        try:
            return values, [self.values(real, fake.without(group)) for group in range(GROUPS)]
        except ValueError:
            return values, None

    def options(self) -> dict[str, Any]:
        """What else the figures depend on."""
        return {}

    def require(self, least: int, num_real: int, num_fake: int, of: str = "") -> None:
        """Refuses fewer images than a figure takes."""
        for kind, number in (("real", num_real), ("generated", num_fake)):
            if number < least:
                raise ValueError(
                    f"{self.name} on features of {self.extractor.name} takes at least {least} {kind} images{of},"
                    f" and there are {number}: {REMEDIES[kind]}"
                )

    def figures(self, real: Features, fake: Features, errors: bool, protocol: dict[str, Any]) -> list[dict[str, Any]]:
        """Each figure with its standard error and how it came about.

        The error is that of a delete-a-group jackknife over ten groups of the generated images. A
        bootstrap would be biased: it repeats images, which shrinks the covariance and the distances to neighbours.

        Args:
            real: features of the real images.
            fake: features of the generated images.
            errors: whether to estimate errors.
            protocol: what the caller knows: seed, step, ...

        Returns:
            Dictionaries with name, value, error (or None) and protocol.

        Raises:
            ValueError: fewer images than `least`, or features that are not finite.
        """
        self.require(self.least, real.count, fake.count)
        for kind, features in (("real", real), ("generated", fake)):
            if not features.mean.isfinite().all():
                bad = int((~features.values.isfinite()).any(1).sum())
                raise ValueError(
                    f"{self.name}: features of {self.extractor.name} of {bad or 'some'} of {features.count} {kind}"
                    " images are not finite: the images, or the weights of the extractor, are damaged"
                )
        errors = errors and len(fake) >= 2 * GROUPS
        values, without = self.jackknife(real, fake) if errors else (self.values(real, fake), None)
        deviations = [None] * len(values) if without is None else standard_errors(without)
        facts = {
            "num_real": real.count,
            "num_fake": fake.count,
            "split": self.split,
            "extractor": self.extractor.describe(),
        }
        if not self.of_sums and (len(real), len(fake)) != (real.count, fake.count):
            facts |= {"drawn_real": len(real), "drawn_fake": len(fake)}
        return [
            {"name": name, "value": value, "error": error, "protocol": facts | self.options() | protocol}
            for name, value, error in zip(self.names, values, deviations, strict=True)
        ]


def check_classifies(score: Score, extractor: Extractor) -> None:
    if not extractor.classifies:
        raise ValueError(
            f"{type(score).__name__} needs an extractor with classes, and {extractor.name} has none: name another one,"
            " or leave it out of --model.metrics"
        )


def standard_errors(without: list[list[float]]) -> list[float]:
    """Those of some figures, from their values without each of the groups of a jackknife."""
    table = torch.tensor(without, dtype=torch.float64)
    spread = (table - table.mean(0)).square().sum(0)
    return (spread * (GROUPS - 1) / GROUPS).sqrt().tolist()


EVERY = torch.ones(1, GROUPS).double()  # groups of generated images: a row for all of them,
WITHOUT = torch.cat([EVERY, 1 - torch.eye(GROUPS).double()])  # and ten more, each without one


class PairMetric(Metric):
    """Figures of pairs of images: of at most `max_images` of a set, their errors at the cost of one pass.

    A subclass implements `table` in place of `values`.

    Args:
        extractor: what computes the features; see `Metric`.
        split: real images to compare with.
        max_images: of each set; drawn at random, always the same ones.
    """

    def __init__(
        self, extractor: Extractor | None = None, split: Literal["train", "test"] = "train", max_images: int = 10000
    ):
        super().__init__(extractor, split)
        self.max_images = max_images

    def check(self, data: Any, num_fake: int) -> None:
        super().check(data, num_fake)
        if self.max_images < self.least:
            raise ValueError(f"{self.name} takes at least {self.least} images: raise its max_images {self.max_images}")

    def options(self) -> dict[str, Any]:
        return {"max_images": self.max_images}

    @abstractmethod
    def table(self, real: Features, fake: Features, included: Tensor) -> Tensor:
        """The figures [S, F] of S unions of groups of the generated images.

        Args:
            real: at most `max_images`.
            fake: at most `max_images`.
            included: float64 [S, GROUPS], 1 where a union has the group, else 0.
        """

    def values(self, real: Features, fake: Features) -> list[float]:
        return self.table(real.some(self.max_images), fake.some(self.max_images), EVERY)[0].tolist()

    def jackknife(self, real: Features, fake: Features) -> tuple[list[float], list[list[float]] | None]:
        try:
            values, *without = self.table(real.some(self.max_images), fake.some(self.max_images), WITHOUT).tolist()
        except ValueError:
            return self.values(real, fake), None
        return values, without


def key_of(metric: Metric) -> str:
    """The same for metrics that can share features."""
    return repr(metric.extractor.describe())
