"""Combinations of parts that are known not to train: refused, with the reason."""

from torch import nn
from torch.nn.utils import parametrize

from src.engine.batch_norm import has_batch_norm
from src.networks.layers import SecondOutput
from src.objectives.consistency import SelfSupervision
from src.objectives.losses import Loss, Wasserstein, wrapped
from src.objectives.regularizers import Regularizer


def check_combination(loss: Loss, discriminator: nn.Module, regularizers: list[Regularizer]) -> None:
    """Refuses what each part by itself allows.

    Args:
        loss: the game.
        discriminator: D.
        regularizers: its penalties.

    Raises:
        ValueError: for a Wasserstein loss whose D has no bound, or for outputs of D that nothing trains.
    """
    if any(isinstance(game, Wasserstein) for game in wrapped(loss)) and not (regularizers or is_bounded(discriminator)):
        raise ValueError(
            "Wasserstein needs a discriminator of bounded slope, or its loss falls without end (arXiv:1701.07875): add"
            " GradientPenalty to regularizers, or set spectral_norm to true and batch_norm to false"
        )
    classifies = isinstance(discriminator, SecondOutput) and discriminator.classifies
    if classifies and not any(part.second_output for part in regularizers):
        needed = "DataToDataCrossEntropy" if discriminator.has_proxies else "Classification"
        raise ValueError(
            f"nothing trains the second output of the discriminator, and its logits leave the classes out: add {needed}"
            " to regularizers, or set classes of the discriminator to projection"
        )
    if getattr(discriminator, "decoders", None) and not any(isinstance(part, SelfSupervision) for part in regularizers):
        raise ValueError(
            "nothing trains the decoders of the discriminator: add SelfSupervision to regularizers, or set decoders to"
            " false"
        )


def is_bounded(discriminator: nn.Module) -> bool:
    """Whether weights are constrained, by spectral norm for instance; batch norm divides by what it finds."""
    constrained = any(parametrize.is_parametrized(module) for module in discriminator.modules())
    return constrained and not has_batch_norm(discriminator)
