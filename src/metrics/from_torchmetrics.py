"""Metrics of torchmetrics: those of images are named in `model.metrics` like our own."""

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torchmetrics
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm import tqdm

from src.engine.batches import EVAL_BATCH
from src.engine.distributed import world_size
from src.metrics.base import Score
from src.metrics.features import Extractor, exact_float32, match_channels
from src.metrics.kept import digest

IMAGES = ("img", "imgs", "image", "images")  # what `update` calls them
USUAL = ("2048", "logits_unbiased")  # layers of Inception that go without saying


class ImageMetric(ABC):
    """Every `torchmetrics.Metric` whose `update` takes `(images)` or `(images, real)`; no other class."""

    @abstractmethod
    def update(self, images: Tensor, *real: bool) -> None: ...

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        if not issubclass(other, torchmetrics.Metric):
            return False
        _, *parameters = inspect.signature(other.update).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        return needed[:1] in [[name] for name in IMAGES] and needed[1:] in ([], ["real"])


class FromTorchmetrics(Score):
    """The figure of a metric of torchmetrics, to which each process shows its share of the images.

    torchmetrics reduces over the processes. Images have three channels; they are uint8, or floats in [0, 1] where the
    metric says `normalize: true` or has no such option. Real images are those of the training split, shown at every
    evaluation, or once where the metric says `reset_real_features: false`. A pair, as of `KernelInceptionDistance`, is
    a value and its spread over parts that the metric draws: always the same ones.

    Args:
        metric: whose `update` takes images.

    Raises:
        ValueError: a metric of anything else, or one that does not reduce over the processes.
    """

    watches = True

    def __init__(self, metric: torchmetrics.Metric):
        self.title = f"{type(metric).__module__}.{type(metric).__name__}"
        if not isinstance(metric, ImageMetric):
            raise ValueError(
                f"{self.title} takes no images: model.metrics holds metrics with update(images) or update(images, real)"
            )
        if not metric.sync_on_compute:
            raise ValueError(f"{self.title}: each process would score its share alone, leave out sync_on_compute")
        self.metric = metric.eval()
        self.compares = "real" in inspect.signature(metric.update).parameters
        self.split = "train" if self.compares else None
        self.gather, metric.dist_sync_fn = metric.dist_sync_fn or gather_all_tensors, self.in_order
        self.numbers: dict[str, list[Tensor]] = defaultdict(list)  # of the images in each state that is a list of them
        self.shown = {True: 0, False: 0}  # real and generated images
        self.facts, self.suffix = self.describe()

    def describe(self) -> tuple[dict[str, Any], list[str]]:
        """What the figure depends on, and what tells it from the same one on other features."""
        options = inspect.signature(type(self.metric).__init__).parameters.keys() & vars(self.metric).keys()
        facts = {"metric": self.title, "torchmetrics": torchmetrics.__version__}
        facts["options"] = {name: getattr(self.metric, name) for name in sorted(options)}
        network = next(self.metric.children(), None)
        if network is None:
            return facts, []
        weights = digest({name: weight.cpu() for name, weight in self.metric.state_dict().items()})
        facts["extractor"] = {"name": type(network).__name__, "weights_hash": weights}
        if not hasattr(network, "features_list"):
            return facts, [type(network).__name__.lower(), weights[:8]]
        facts["extractor"] |= {"layers": network.features_list, "antialias": network.use_antialias}
        return facts, [layer for layer in network.features_list if layer not in USUAL]

    @property
    def names(self) -> list[str]:
        """`torchmetrics-kernel-inception-distance`, for instance."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self.metric).__name__).lower()
        return ["-".join(["torchmetrics", name, *self.suffix])]

    @property
    def higher_is_better(self) -> bool:
        if self.metric.higher_is_better is None:
            raise ValueError(f"{self.title} does not say whether more is better: put another of model.metrics first")
        return self.metric.higher_is_better

    def directed(self, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"higher_is_better": self.metric.higher_is_better} | figure for figure in figures]

    @torch.inference_mode(False)  # states made there could not be added to elsewhere
    def setup(self, device: torch.device | str, shared: Extractor | None = None) -> None:
        self.metric.to(device)
        self.metric.reset()
        kept = not getattr(self.metric, "reset_real_features", True)
        self.shown = {True: self.shown[True] if kept else 0, False: 0}
        for name in list(self.numbers):
            if not getattr(self.metric, name):
                del self.numbers[name]

    def observe(self, images: Tensor, indices: Tensor, labels: Tensor | None = None) -> None:
        self.show(images, indices, real=False)

    @torch.inference_mode(False)
    def show(self, images: Tensor, indices: Tensor, real: bool) -> None:
        """Updates the metric, and keeps the numbers of images beside each list that it keeps of them.

        Args:
            images: uint8 [B, C, H, W], maybe none.
            indices: int64 [B].
            real: whether they are.
        """
        device = self.metric.device
        images, indices = match_channels(images, 3).to(device), indices.to(device)
        self.shown[real] += len(images)
        lengths = {name: len(state) for name, state in self.metric.metric_state.items() if isinstance(state, list)}
        with self.guard(device):
            shown = images.float() / 255 if getattr(self.metric, "normalize", True) else images
            self.metric.update(shown, **({"real": real} if self.compares else {}))
        for name, length in lengths.items():
            state = getattr(self.metric, name)
            if len(state) > length and state[-1].ndim and len(state[-1]) == len(images):
                self.numbers[name].append(indices)

    def in_order(self, mine: Tensor, group: Any = None) -> list[Tensor]:
        """What all processes hold: of a list of images in their order, which does not depend on who holds which."""
        everyones = self.gather(mine, group)
        for name, numbers in self.numbers.items():
            if mine is getattr(self.metric, name)[0]:
                return [torch.cat(everyones)[torch.cat(self.gather(numbers[0], group)).argsort()]]
        return everyones

    @torch.inference_mode(False)
    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        data, rank, processes = model.trainer.datamodule, model.global_rank, model.trainer.world_size
        protocol = model.protocol() | self.facts
        if self.compares:
            number = data.num_images("train")
            if self.shown[True] == 0:
                said = f"{type(self.metric).__name__} of the real images"
                with tqdm(total=number, desc=said, unit="image", leave=False, disable=True if rank else None) as bar:
                    for turn, images in enumerate(data.real_batches("train", rank, processes)):
                        start = (rank + turn * processes) * EVAL_BATCH
                        self.show(images, torch.arange(start, start + len(images)), real=True)
                        bar.update(len(images) * processes)
            protocol |= {"num_real": number, "split": "train", "real_data": data.digest("train")[:8]}
        for real in {False, self.compares}:
            if self.shown[real] == 0:  # a process without images has a part in the reduction
                self.show(torch.from_numpy(data.split("train")[0][:0]), torch.arange(0), real)
        num_fake = torch.tensor(self.shown[False], device=self.metric.device)
        if world_size() > 1:
            dist.all_reduce(num_fake)
        value, error = self.compute()
        if error is not None:
            protocol["error"] = "spread over the parts of the metric"
        return [{"name": self.name, "value": value, "error": error, "protocol": protocol | {"num_fake": int(num_fake)}}]

    def compute(self) -> tuple[float, float | None]:
        """The figure, and its spread where the metric has one; the same on every process."""
        for name, numbers in self.numbers.items():
            setattr(self.metric, name, [torch.cat(getattr(self.metric, name))])
            self.numbers[name] = [torch.cat(numbers)]
        with self.guard(self.metric.device), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            result = self.metric.compute()
        pair = result if isinstance(result, (tuple, list)) else (result,)
        if len(pair) > 2 or not all(isinstance(x, Tensor) and x.numel() == 1 for x in pair):
            raise ValueError(f"{self.title} gives no single figure: leave it out of model.metrics")
        value, error = (*(x.item() for x in pair), None)[:2]
        if not math.isfinite(value):
            raise ValueError(f"{self.title} is {value}: the images, or the weights of its network, are damaged")
        return value, error

    @contextmanager
    def guard(self, device: torch.device) -> Iterator[None]:
        """Exact arithmetic inside, and what torchmetrics says of images or options that do not fit in one line."""
        try:
            with exact_float32(device):
                yield
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.title}, shown {self.shown[True]} real and {self.shown[False]} generated images: {error};"
                " correct its options, or raise --model.val_images and --model.test_images"
            ) from error


def adapted(metric: Score | ImageMetric) -> Score:
    return metric if isinstance(metric, Score) else FromTorchmetrics(metric)
