"""A regularizer of the discriminator that needs its logits alone, and costs nothing beside the loss that it wraps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.engine.distributed import average_
from src.engine.schedules import Schedule, extremes
from src.objectives.losses import Loss, NonSaturating


class LeCam(nn.Module, Loss):
    """A loss whose discriminator is held near averages of its own logits, for few images: arXiv:2104.03310.

    Adds weight * (E max(0, D(x) - a_F)^2 + E max(0, a_R - D(G(z)))^2), with a_R and a_F the moving averages of the mean
    logits of real and of generated images, as the authors' code has it (google/lecam-gan; the paper has no maximum).
    The averages start from the first logits, lie in the checkpoint, and are those of all processes; with
    `model.accumulate` they move at every part.

    Args:
        loss: the game; `NonSaturating` by default.
        weight: lambda, 0 or more, or a schedule over the images seen; 0.3 for BigGAN with the hinge loss, after 1,000
            steps, and 3e-7 to 1e-6 for StyleGAN2.
        decay: of the averages at each discriminator update, in [0, 1).

    Raises:
        ValueError: for a negative weight, or a decay outside [0, 1).
    """

    def __init__(self, loss: Loss | None = None, weight: float | Schedule = 0.3, decay: float = 0.99):
        super().__init__()
        if extremes(weight)[0] < 0 or not 0 <= decay < 1:
            raise ValueError(
                f"LeCam needs a weight of 0 or more and a decay in [0, 1), got {extremes(weight)[0]} and {decay}"
            )
        self.loss, self.weight, self.decay = loss or NonSaturating(), weight, decay
        self.relativistic, self.calibrated = self.loss.relativistic, self.loss.calibrated
        self.register_buffer("averages", torch.zeros(2))  # a_R, a_F
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return self.loss.generator(real_logits, fake_logits)

    @torch.no_grad()
    def follow(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Moves the averages towards the logits [B] of this update."""
        means = torch.stack([real_logits.mean(), fake_logits.mean()])
        average_([means])
        kept = torch.where(self.begun, self.decay, 0.0)
        # Logits that are not finite are left out, as `on_nonfinite` leaves out the update.
        self.averages.copy_(torch.where(means.isfinite(), torch.lerp(means, self.averages, kept), self.averages))
        self.begun.fill_(True)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        self.follow(real_logits, fake_logits)
        real, fake = self.averages.clone()  # a later part of the batch moves them before the gradient is taken
        term = F.relu(real_logits - fake).square().mean() + F.relu(real - fake_logits).square().mean()
        return self.loss.discriminator(real_logits, fake_logits) + self.weight * term
