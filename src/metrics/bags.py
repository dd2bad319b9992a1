"""Figures of bags: does the discriminator classify held-out ones, and what does each component of the mixture make?"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from src.engine.modes import evaluating
from src.metrics.base import Metric, Score, key_of, standard_errors
from src.metrics.judged import Judged
from src.metrics.statistics import GROUPS, Features

CHUNK = 100  # bags that are classified at once


class BagScore(Score):
    """How well the discriminator classifies held-out bags, and whether its attention finds the key instances.

    `bag-accuracy`; `bag-auc`, the area under the ROC curve, of each class against the others and averaged;
    `attention-auc`, the probability that a key instance has more attention than another instance of its bag, averaged
    over the bags that hold both kinds (left out where the data do not know the key instances).
    """

    split = "test"
    figure_names = ("bag-accuracy", "bag-auc", "attention-auc")
    higher_is_better = True
    asks_discriminator = True

    def check(self, data: Any, num_fake: int) -> None:
        super().check(data, num_fake)
        check_bags(self, data)
        missing = sorted({*range(data.num_classes)} - {*data.bags("test").labels.tolist()})
        if missing or data.num_classes < 2:
            names = ", ".join(data.class_names[label] for label in missing) or f"other classes than {data.class_names}"
            raise ValueError(f"BagScore needs held-out bags of each of two classes or more: add some of {names}")

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        data = model.trainer.datamodule
        count = len(data.bags("test").sizes)
        x, condition = data.examples("test", count)
        logits, attention = classified(model, x, condition["mask"])
        labels, mask, keys = condition["label"], condition["mask"], data.keys("test")
        aucs = None if keys is None else attention_aucs(attention, keys, mask)

        def values(which: Tensor) -> list[float]:
            found, labelled = logits[which], labels[which]
            accuracy = (found.argmax(1) == labelled).double().mean().item()
            figures = [accuracy, class_auc(found, labelled)]
            return figures if aucs is None else [*figures, aucs[which].nanmean().item()]

        figures = values(torch.ones(count, dtype=torch.bool))
        deviations: list[float | None] = [None] * len(figures)
        if errors:
            # Drawn, because the classes of bags may take turns.
            groups = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % GROUPS
            with suppress(ValueError):  # without a group, bags of some class may be missing
                deviations = standard_errors([values(groups != group) for group in range(GROUPS)])
        protocol = {"num_bags": count, "split": "test"} | model.protocol() | {"generator": None}
        return [
            {"name": name, "value": value, "error": error, "protocol": protocol}
            for name, value, error in zip(self.names, figures, deviations, strict=False)
        ]


class ComponentPurity(Metric):
    """Which classes of images the components of a mixture make, as a classifier judges.

    `component-purity`: share of generated images whose class is the most frequent one of their component;
    `component-classes`: how many classes are the most frequent one of some component. For a generator of
    `src.networks.bags`, and an extractor with class logits, such as `Classifier`.
    """

    figure_names = ("component-purity", "component-classes")
    higher_is_better = True
    of_classes = True

    def check(self, data: Any, num_fake: int) -> None:
        super().check(data, num_fake)
        check_bags(self, data)

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        fake = self.coded(model)
        return self.figures(fake, fake, errors, model.protocol() | {"num_real": 0})

    def coded(self, model: Any) -> Features:
        """Features of the generated images, with their components in place of their labels."""
        fake = model.fakes[key_of(self)]
        network = (model.generator_ema or model.generator).cpu()
        numbers = numbers_of(model)
        components = network.components(model.latents_of(numbers), model.trainer.datamodule.conditions(numbers))
        network.to(model.device)
        return Features(fake.values, fake.logits, components.flatten()[fake.indices], fake.indices)

    def values(self, real: Features, fake: Features) -> list[float]:
        counts = contingency(fake)
        return [counts.amax(1).sum().item() / len(fake), float(len(counts[counts.sum(1) > 0].argmax(1).unique()))]


class LabelTruth(Judged):
    """Are generated bags what their labels say, as a classifier of their instances judges?

    `label-truth-<class>`, for each class of bags: the share of its generated bags that hold an image of its target, or,
    of the class without a target, none of any target. For bags of `ImageBags`, and an extractor whose classes are those
    of their source. Of real bags it is below 1, too, since the classifier errs.

    Args:
        extractor: one with class logits: `Classifier` for digits.

    Raises:
        ValueError: an extractor without classes; other bags.
    """

    figure_names = ("label-truth-none",)

    def check(self, data: Any, num_fake: int) -> None:
        check_bags(self, data)
        if not hasattr(data, "targets"):
            raise ValueError("LabelTruth needs bags of src.data.bags.ImageBags: leave it out of --model.metrics")

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        data, numbers = model.trainer.datamodule, numbers_of(model)
        condition = data.conditions(numbers)
        mask, labels = condition["mask"], condition["label"]
        found = self.classes(model.sample(numbers, condition).cpu()[mask])
        right = truths(found, mask.nonzero()[:, 0], labels, data.targets)
        protocol = {"num_bags": len(numbers)} | model.protocol()
        return [
            self.figure(f"label-truth-{name}", right[labels == c], protocol)
            for c, name in enumerate(data.class_names)
            if (labels == c).any()
        ]


def truths(found: Tensor, bags: Tensor, classes: Tensor, targets: list[int]) -> Tensor:
    """Which bags are what their class says, bool [M].

    Args:
        found: class of each instance, as a classifier judges [I].
        bags: number of its bag [I], from 0.
        classes: of the bags [M].
        targets: class of instances that makes a bag one of class 1, 2, ...
    """
    holds = torch.zeros(len(classes), 1 + len(targets), dtype=torch.bool)
    for c, target in enumerate(targets, 1):
        holds[bags[found == target], c] = True
    holds[:, 0] = ~holds[:, 1:].any(1)
    return holds[torch.arange(len(classes)), classes]


def numbers_of(model: Any) -> Tensor:
    """Numbers of the generated bags."""
    return torch.arange(model.test_images if model.trainer.testing else model.val_images)


def check_bags(score: Score, data: Any) -> None:
    if not hasattr(data, "bags"):
        raise ValueError(f"{type(score).__name__} is of bags, those of src.data.bags: leave it out of --model.metrics")


def contingency(fake: Features) -> Tensor:
    """How many images of each component (in place of the labels) have each class: int64 [K, C]."""
    counts = torch.zeros(int(fake.labels.max()) + 1, fake.logits.shape[1], dtype=torch.int64)
    ones = torch.ones(len(fake), dtype=torch.int64)
    return counts.index_put((fake.labels, fake.logits.argmax(1)), ones, accumulate=True)


@torch.no_grad()
def classified(model: Any, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits [M, num_classes] and attention [M, N] of bags, by the discriminator as it evaluates; on the CPU."""
    parts = []
    with evaluating(model.discriminator) as network:
        for bags, present in zip(x.to(model.device).split(CHUNK), mask.to(model.device).split(CHUNK), strict=True):
            condition = {"mask": present}
            parts.append((network.class_logits(bags, condition).cpu(), network.attention(bags, condition).cpu()))
    logits, attention = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(attention)


def auc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: P(score of a positive > that of a negative), ties counting one half.

    Args:
        scores: [M].
        positive: bool [M].

    Raises:
        ValueError: if one of the two kinds is missing.
    """
    ours, theirs = scores[positive], scores[~positive].sort().values
    if not len(ours) or not len(theirs):
        raise ValueError("an AUC needs positives and negatives")
    below = torch.searchsorted(theirs, ours) + torch.searchsorted(theirs, ours, right=True)
    return below.double().mean().item() / (2 * len(theirs))


def class_auc(logits: Tensor, labels: Tensor) -> float:
    """`auc` of the probability of each class, the others the negatives, averaged; two classes have one and the same."""
    classes = range(1, 2) if logits.shape[1] == 2 else range(logits.shape[1])
    probabilities = logits.double().softmax(1)
    return sum(auc(probabilities[:, c], labels == c) for c in classes) / len(classes)


def attention_aucs(attention: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """`auc` of the attention [M, N] for the key instances within each bag, float64 [M]; NaN where all or none are."""
    pairs = (keys & mask)[:, :, None] & (mask & ~keys)[:, None, :]
    higher = (attention[:, :, None] > attention[:, None, :]).double()
    equal = (attention[:, :, None] == attention[:, None, :]).double()
    return ((higher + equal / 2) * pairs).sum((1, 2)) / pairs.sum((1, 2))
