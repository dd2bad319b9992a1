"""A generator that is not shown its worst images."""

from torch import Tensor

from src.engine.schedules import Schedule, extremes
from src.objectives.losses import Loss, NonSaturating


class TopK(Loss):
    """G learns from the generated images alone that D takes for real most; Sinha et al., arXiv:2002.06224.

    Args:
        loss: the game, not a relativistic one; `NonSaturating` by default.
        share: of the batch of each process, the largest logits, above 0 and up to 1; the authors go from 1 to 0.5:
            `Linear`, or another schedule.

    Raises:
        ValueError: for a share out of range, or a relativistic loss, which compares pairs.
    """

    def __init__(self, loss: Loss | None = None, share: float | Schedule = 0.5):
        smallest, largest = extremes(share)
        if smallest <= 0 or largest > 1:
            raise ValueError(f"share of TopK must be in (0, 1], got {smallest} to {largest}")
        self.loss, self.share = loss or NonSaturating(), share
        if self.loss.relativistic:
            raise ValueError(
                "TopK leaves out generated images, and a relativistic loss pairs each: choose another loss"
            )
        self.calibrated = self.loss.calibrated

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        number = max(int(self.share * len(fake_logits)), 1)
        return self.loss.generator(real_logits, fake_logits.topk(number).values)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.loss.discriminator(real_logits, fake_logits)
