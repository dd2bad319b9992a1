"""Further tasks of the two players: the class of what D sees (AC-GAN), the code of what G draws (InfoGAN)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.engine.schedules import Schedule
from src.objectives.regularizers import Regularizer
from src.objectives.terms import GeneratorRegularizer


def labels_of(condition: Any) -> Tensor:
    """Class labels [B], where they are the condition, or its entry "label"."""
    return condition["label"] if isinstance(condition, Mapping) else condition


def check_classifies(part: Any, discriminator: nn.Module) -> None:
    if not hasattr(discriminator, "class_logits"):
        raise ValueError(
            f"{type(part).__name__} needs a discriminator with class_logits, which {type(discriminator).__module__} has"
            " not: take one of src.networks.bags, or remove the term"
        )


class Classification(Regularizer):
    """Cross-entropy of the classes that D finds in real and in generated samples; L_C of AC-GAN, arXiv:1610.09585.

    For a discriminator with `class_logits(x, condition) -> [B, num_classes]`. The generated samples are further
    labelled data, as good as the generator is.

    Args:
        weight: of the term, 0 or more.
        fake_weight: of the generated samples beside the real ones; 1 in AC-GAN, 0 leaves them out.
        every: evaluate at every this many discriminator updates, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    def __init__(self, weight: float | Schedule = 1.0, fake_weight: float = 1.0, every: int = 1):
        super().__init__(weight, every)
        self.fake_weight = fake_weight

    def check(self, discriminator: nn.Module) -> None:
        check_classifies(self, discriminator)

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        labels = labels_of(condition)
        term = F.cross_entropy(discriminator.class_logits(real, condition).float(), labels)
        if self.fake_weight:
            fake_logits = discriminator.class_logits(fake, condition).float()
            term = term + self.fake_weight * F.cross_entropy(fake_logits, labels)
        return term


class GeneratorClassification(GeneratorRegularizer):
    """Cross-entropy of the class that D finds in generated samples, which G minimizes too; AC-GAN, arXiv:1610.09585.

    Args:
        weight: of the term, 0 or more.
        every: evaluate at every this many steps, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        check_classifies(self, discriminator)

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        return F.cross_entropy(model.discriminator.class_logits(fake, condition).float(), labels_of(condition))


class Information(GeneratorRegularizer):
    """Keeps the discrete code of each image legible: -E log Q(code | G(z)), InfoGAN's bound, arXiv:1606.03657, Eq. 5.

    Q is a linear layer of its own on the features of the discriminator's `encoder`, whose weights stay as they are.
    For a generator with `num_codes` and `codes(z, condition) -> [M]` of the images of its `as_images`.

    Args:
        weight: lambda, 0 or more.
        every: evaluate at every this many steps, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not (hasattr(generator, "codes") and hasattr(discriminator, "encoder")):
            raise ValueError("Information needs a generator with codes: take src.networks.bags, or remove the term")
        self.head = nn.Linear(discriminator.num_features, generator.num_codes)

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        images, _, _ = model.generator.as_images(fake, torch.arange(len(fake)), condition)
        logits = self.head(model.discriminator.encoder(images)).float()
        return F.cross_entropy(logits, model.generator.codes(z, condition))
