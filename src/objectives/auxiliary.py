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
    if not getattr(discriminator, "classifies", False):
        raise ValueError(
            f"{type(part).__name__} needs a discriminator with a second output, class_logits: set classes to"
            " classifier in biggan.Discriminator or dcgan.Discriminator, or remove the term"
        )


def check_proxies(part: Any, discriminator: nn.Module) -> None:
    if not getattr(discriminator, "has_proxies", False):
        raise ValueError(
            f"{type(part).__name__} needs a discriminator with a second output, class_embeddings: set classes to"
            " proxies in biggan.Discriminator or dcgan.Discriminator, or remove the term"
        )


def data_to_data(
    embeddings: Tensor, proxies: Tensor, labels: Tensor, temperature: float, positive_margin: float
) -> Tensor:
    """D2D-CE, the mean over a batch; Kang et al., arXiv:2111.01118, and not as its released code has it.

    -log(p / (p + sum over j of another class of exp(max(f.f_j - m_n, 0) / t))), p = exp(min(f.v - m_p, 0) / t): easy
    ones do not count, positives above the margin m_p and negatives below m_n = 1 - m_p.

    Args:
        embeddings: f, of length 1 [B, dim].
        proxies: v, of length 1 [num_classes, dim].
        labels: [B].
        temperature: t.
        positive_margin: m_p.
    """
    positive = ((embeddings * proxies[labels]).sum(1) - positive_margin).clamp(max=0) / temperature
    negative = (embeddings @ embeddings.T - (1 - positive_margin)).clamp(min=0) / temperature
    negative = negative.masked_fill(labels[:, None] == labels, -torch.inf)
    return (torch.cat([positive[:, None], negative], 1).logsumexp(1) - positive).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the samples whose label is known, not -1; 0 without any."""
    losses = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    return losses / (labels >= 0).sum().clamp(min=1)


class Classification(Regularizer):
    """Cross-entropy of the classes that D finds in real and in generated samples; L_C of AC-GAN, arXiv:1610.09585.

    For a discriminator that `classifies`: with `class_logits(x, condition) -> [B, num_classes]`. The generated samples
    are further labelled data, as good as the generator is.

    Args:
        weight: of the term, 0 or more.
        fake_weight: of the generated samples beside the real ones; 1 in AC-GAN, 0 leaves them out; or a schedule.
        every: evaluate at every this many discriminator updates, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    second_output = True

    def __init__(self, weight: float | Schedule = 1.0, fake_weight: float | Schedule = 1.0, every: int = 1):
        super().__init__(weight, every)
        self.fake_weight = fake_weight

    def check(self, discriminator: nn.Module) -> None:
        check_classifies(self, discriminator)

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        labels = labels_of(condition)
        term = cross_entropy(discriminator.class_logits(real, condition), labels)
        if self.fake_weight:
            term = term + self.fake_weight * cross_entropy(discriminator.class_logits(fake, condition), labels)
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
        logits = model.discriminator.class_logits(model.seen(fake, real), condition)
        return cross_entropy(logits, labels_of(condition))


class Contrast:
    """The options of D2D-CE; arguments as of `DataToDataCrossEntropy`."""

    def __init__(
        self, weight: float | Schedule = 0.5, every: int = 1, temperature: float = 0.5, positive_margin: float = 0.98
    ):
        super().__init__(weight, every)
        if temperature <= 0 or not 0 <= positive_margin <= 1:
            raise ValueError(
                f"{type(self).__name__} needs a temperature above 0 and a positive_margin in [0, 1], got {temperature}"
                f" and {positive_margin}"
            )
        self.temperature, self.positive_margin = temperature, positive_margin

    def value(self, discriminator: nn.Module, images: Tensor, condition: Any) -> Tensor:
        found = discriminator.class_embeddings(images, condition)
        return data_to_data(*found, labels_of(condition), self.temperature, self.positive_margin)


class DataToDataCrossEntropy(Contrast, Regularizer):
    """Real images near the proxy of their class, and far from those of other classes: D2D-CE of ReACGAN.

    arXiv:2111.01118; see `data_to_data`. Others are those of the same process and, with `model.accumulate`, of
    the same part of the batch. Goes with `GeneratorDataToDataCrossEntropy`, and costs a pass of the discriminator.

    Args:
        weight: lambda, 0 or more; 0.5 for BigGAN, 0.25 for StyleGAN2.
        every: evaluate at every this many discriminator updates, rescaled by it.
        temperature: above 0; 0.5 for BigGAN, 0.25 for StyleGAN2.
        positive_margin: cosine from which an image is near enough to its proxy, 0 to 1; one below 1 minus it is far.

    Raises:
        ValueError: for a negative weight, `every` below 1, options out of range, or a discriminator without proxies.
    """

    second_output = True

    def check(self, discriminator: nn.Module) -> None:
        check_proxies(self, discriminator)

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Any) -> Tensor:
        return self.value(discriminator, real, condition)


class GeneratorDataToDataCrossEntropy(Contrast, GeneratorRegularizer):
    """D2D-CE of the generated images, which G minimizes too; ReACGAN, arXiv:2111.01118.

    Args:
        weight: lambda, 0 or more.
        every: evaluate at every this many steps, rescaled by it.
        temperature: above 0.
        positive_margin: cosine from which an image is near enough to its proxy, 0 to 1.

    Raises:
        ValueError: as `DataToDataCrossEntropy`.
    """

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        check_proxies(self, discriminator)

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        return self.value(model.discriminator, model.seen(fake, real), condition)


class Information(GeneratorRegularizer):
    """Keeps the discrete code of each image legible: -E log Q(code | G(z)), InfoGAN's bound, arXiv:1606.03657, Eq. 5.

    Q is a linear layer of its own on the discriminator's `instance_features`, whose weights stay as they are.
    For a generator with `num_codes` and `codes(z, condition) -> [M]` of the images of its `as_images`.

    Args:
        weight: lambda, 0 or more.
        every: evaluate at every this many steps, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not (hasattr(generator, "codes") and hasattr(discriminator, "instance_features")):
            raise ValueError("Information needs a generator with codes: take src.networks.bags, or remove the term")
        self.head = nn.Linear(discriminator.num_features, generator.num_codes)

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        images, _, _ = model.generator.as_images(fake, torch.arange(len(fake)), condition)
        logits = self.head(model.discriminator.instance_features(images)).float()
        return F.cross_entropy(logits, model.generator.codes(z, condition))


class BagLikelihood(GeneratorRegularizer):
    """Fits by which components a class of bags is drawn: -log p(bag | class) of the real bags that have a label.

    One instance, nobody knows which, is the witness; it and the others have the weights of
    `component_logits` of `src.networks.bags.Generator`, which alone are trained. The density of an instance under a
    component is, up to a factor, the posterior that `Information` learned over the share of that component in what it
    learned from. A mean over instances. Goes with `Information`.

    Args:
        weight: of the term, 0 or more.
        every: evaluate at every this many steps, rescaled by it.

    Raises:
        ValueError: for a negative weight, `every` below 1, another generator, or without `Information`.
    """

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not hasattr(generator, "component_logits"):
            raise ValueError("BagLikelihood needs a generator with components: take src.networks.bags, or remove it")

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        heads = [part.head for part in model.g_regularizers if isinstance(part, Information)]
        if not heads:
            raise ValueError("BagLikelihood goes by what Information learns: add that to model.g_regularizers, too")
        labels, mask = condition["label"], condition["mask"]
        weights, sizes, known = model.generator.component_logits().log_softmax(2), mask.sum(1), labels >= 0
        with torch.no_grad():
            posterior = heads[0](model.discriminator.instance_features(real.flatten(0, 1))).float().log_softmax(1)
            share = 1 / sizes.float().mean()  # of witnesses
            prior = (share * weights[:, 0].exp() + (1 - share) * weights[:, 1].exp()).mean(0)
            evidence = posterior.unflatten(0, mask.shape) - prior.clamp(min=1e-4).log()
        of_class = weights[labels.clamp(min=0)]
        witness, other = (torch.logsumexp(evidence + of_class[:, j, None], 2) for j in (0, 1))
        swapped = torch.logsumexp((witness - other).masked_fill(~mask, -torch.inf), 1) - sizes.log()
        likelihood = (other * mask).sum(1) + swapped
        return -(likelihood * known).sum() / (sizes * known).sum().clamp(min=1)
