"""What the two players minimize, from logits. `real_logits` = D(x), `fake_logits` = D(G(z)), each [B]."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from src.engine.descriptions import Part
from src.engine.schedules import Schedule, extremes


class Loss(Part, ABC):
    """The objective of both players; both are minimized.

    Attributes:
        relativistic: the generator's loss compares fakes with reals, so its step draws a real batch too; otherwise
            `real_logits` of `generator` is None.
        calibrated: a logit above 0 means "real".
    """

    relativistic: bool = False
    calibrated: bool = True

    @abstractmethod
    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Logits [B] -> scalar that the generator minimizes."""

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Logits [B] -> scalar that the discriminator minimizes."""


# With the logit l and the sigmoid s: -log s(l) = softplus(-l) and -log(1 - s(l)) = softplus(l), finite for every l.


class Minimax(Loss):
    """The zero-sum game of Goodfellow et al., arXiv:1406.2661, Eq. 1; its generator learns little while D wins.

    Args:
        real_label: the probability that D is to give to real images, in (0.5, 1]; 0.9 is one-sided label smoothing
            (arXiv:1606.03498, Section 3.4): sure logits are punished, and fakes keep the label 0.

    Raises:
        ValueError: for a label outside (0.5, 1].
    """

    def __init__(self, real_label: float = 1.0):
        if not 0.5 < real_label <= 1:
            raise ValueError(f"real_label must be in (0.5, 1], got {real_label}: 0.9 smooths, 1.0 does not")
        self.real_label = real_label

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -F.softplus(fake_logits).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        # -a log s(l) - (1 - a) log(1 - s(l)) = softplus(-l) + (1 - a) l
        real = F.softplus(-real_logits) + (1 - self.real_label) * real_logits
        return real.mean() + F.softplus(fake_logits).mean()


class NonSaturating(Minimax):
    """The discriminator of `Minimax`; the generator minimizes -log D(G(z)), arXiv:1406.2661, Section 3.

    Args:
        real_label: the probability that D is to give to real images, in (0.5, 1]; 0.9 is one-sided label smoothing.

    Raises:
        ValueError: for a label outside (0.5, 1].
    """

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits).mean()


class Hinge(Loss):
    """Logits beyond the margin 1 no longer count for the discriminator; Lim & Ye, arXiv:1705.02894."""

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


class LeastSquares(Loss):
    """Regression of the logits to 1 (real) and 0 (fake); Mao et al., arXiv:1611.04076, Eq. 9."""

    calibrated = False  # at 1/2, not at 0

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return (fake_logits - 1).square().mean() / 2

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return (real_logits - 1).square().mean() / 2 + fake_logits.square().mean() / 2


class Wasserstein(Loss):
    """Difference of means; Arjovsky et al., arXiv:1701.07875, Eq. 2. Needs a Lipschitz D, as by `GradientPenalty`."""

    calibrated = False

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits.mean() - real_logits.mean()


class RelativisticPairing(Loss):
    """Each fake is judged against one real: RpGAN, arXiv:1807.00734, with R1 and R2 the R3GAN of arXiv:2501.05441.

    Raises:
        ValueError: if the two batches differ in size, since they are compared in pairs.
    """

    relativistic = True
    calibrated = False

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return F.softplus(margin(real_logits, fake_logits)).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-margin(real_logits, fake_logits)).mean()


def margin(real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
    """D(x) - D(G(z)) in pairs: by how much each real looks more real than its fake."""
    assert real_logits is not None, "a relativistic loss needs the logits of a real batch"
    if real_logits.shape != fake_logits.shape:
        raise ValueError(
            f"RelativisticPairing compares pairs: {len(real_logits)} real and {len(fake_logits)} fake images; "
            "set both batch sizes equal"
        )
    return real_logits - fake_logits


class Weighted(Loss):
    """A loss times a weight, where further terms of the players matter more or less than their game.

    Args:
        loss: the game; `NonSaturating` by default.
        weight: factor for both players, 0 or more; 0 leaves them to their further terms; or a schedule.

    Raises:
        ValueError: for a negative weight.
    """

    def __init__(self, loss: Loss | None = None, weight: float | Schedule = 1.0):
        if extremes(weight)[0] < 0:
            raise ValueError(f"weight of Weighted must be 0 or more, not {extremes(weight)[0]}")
        self.loss, self.weight = loss or NonSaturating(), weight
        self.relativistic, self.calibrated = self.loss.relativistic, self.loss.calibrated

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return self.weight * self.loss.generator(real_logits, fake_logits)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.weight * self.loss.discriminator(real_logits, fake_logits)


def wrapped(loss: Loss) -> Iterator[Loss]:
    """A loss, the loss inside it, and so on: `LeCam`, `Weighted` and `TopK` hold one as `loss`."""
    while loss is not None:
        yield loss
        loss = getattr(loss, "loss", None)
