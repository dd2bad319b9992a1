"""What is done to real and generated images alike before the discriminator sees them."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.engine.descriptions import Part
from src.engine.distributed import average_, world_size
from src.engine.schedules import Schedule, extremes


class Augmentation(Part, nn.Module, ABC):
    """A differentiable transformation of image batches, the same in law for real and generated ones.

    Random numbers come from PyTorch's streams, which the training step
    starts anew at every step; a state that changes with training is a buffer, so that it lies in the checkpoint.
    """

    fixed = False  # whether it draws nothing: the discriminator is shown images so at any time

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, C, H, W]."""

    def check(self, loss: Any) -> None:
        """Raises ValueError for a loss that this augmentation cannot go with; none by default."""

    def advance(self, step: int) -> None:
        """Told the number of the step, from 0, before it."""

    def observe(self, real_logits: Tensor) -> None:
        """Told D(x) [B] of the real images, without a graph, at every discriminator update."""


class InstanceNoise(Augmentation):
    """Gaussian noise that fades: x + sigma * n, so that real and generated images always overlap.

    Source: arXiv:1701.04862, Section 3; arXiv:1610.04490.

    Args:
        sigma: standard deviation at step 0, in units of the images in [-1, 1]; or a schedule over the images seen.
        steps: at which it has fallen to 0, linearly; `null` beside a schedule, and for noise that stays.

    Raises:
        ValueError: for a negative sigma, fewer than 1 step, or steps beside a schedule.
    """

    def __init__(self, sigma: float | Schedule = 0.5, steps: int | None = 10000):
        super().__init__()
        if extremes(sigma)[0] < 0 or (steps is not None and steps < 1):
            raise ValueError(f"InstanceNoise needs sigma >= 0 and steps >= 1, got {extremes(sigma)[0]} and {steps}")
        if isinstance(sigma, Schedule) and steps is not None:
            raise ValueError(f"InstanceNoise fades by its schedule or within {steps} steps: set steps to null")
        self.sigma, self.steps = sigma, steps
        self.share = 1.0

    def advance(self, step: int) -> None:
        self.share = 1.0 if self.steps is None else max(0.0, 1 - step / self.steps)

    def forward(self, images: Tensor) -> Tensor:
        sigma = self.sigma * self.share
        return images + sigma * torch.randn_like(images) if sigma else images


class Color(Augmentation):
    """Brightness, saturation, contrast: the first part of DiffAugment, arXiv:2006.10738.

    In the ranges of mit-han-lab/data-efficient-gans: brightness +-0.5 in units of the images in [-1, 1], saturation
    times 0 to 2 (nothing on grey images), contrast times 0.5 to 1.5. The alpha of RGBA stays.
    """

    def forward(self, images: Tensor) -> Tensor:
        brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
        colors, alpha = images[:, :3], images[:, 3:]
        colors = colors + brightness - 0.5
        colors = colors.mean(1, keepdim=True).lerp(colors, 2 * saturation)
        return torch.cat([colors.mean((1, 2, 3), keepdim=True).lerp(colors, 0.5 + contrast), alpha], 1)


class Premultiply(Augmentation):
    """Colours of RGBA images times their alpha, about mid grey; images of other channels stay as they are.

    The discriminator then sees as much of a colour as people do. Files hold any colour where they are transparent,
    black for the most part, beside which the colours of small shapes are hardly noticed.
    """

    fixed = True

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != 4:
            return images
        colors, alpha = images.split((3, 1), 1)
        return torch.cat([colors * (alpha + 1) / 2, alpha], 1)


class Translation(Augmentation):
    """Shift by whole pixels, zeros (mid grey) from beyond the border: DiffAugment, arXiv:2006.10738.

    Args:
        ratio: largest shift as a share of the height and width, 0 to 1.

    Raises:
        ValueError: for a ratio outside [0, 1].
    """

    def __init__(self, ratio: float = 0.125):
        super().__init__()
        self.ratio = checked_ratio(self, ratio)

    def forward(self, images: Tensor) -> Tensor:
        return shifted(images, self.ratio)


class Cutout(Augmentation):
    """A rectangle of zeros (mid grey) anywhere: DiffAugment, arXiv:2006.10738.

    Args:
        ratio: its sides as a share of the height and width, 0 to 1.

    Raises:
        ValueError: for a ratio outside [0, 1].
    """

    def __init__(self, ratio: float = 0.5):
        super().__init__()
        self.ratio = checked_ratio(self, ratio)

    def forward(self, images: Tensor) -> Tensor:
        sides = [self.inside(len(images), length, images.device) for length in images.shape[2:]]
        return images * ~(sides[0][:, None, :, None] & sides[1][:, None, None, :])

    def inside(self, batch_size: int, length: int, device: torch.device) -> Tensor:
        """Which pixels [B, length] of one side the rectangle covers; its centre is uniform over the side."""
        size = int(length * self.ratio + 0.5)
        first = torch.randint(length + 1 - size % 2, (batch_size, 1), device=device) - size // 2
        pixels = torch.arange(length, device=device)
        return (first <= pixels) & (pixels < first + size)


class Masking(Augmentation):
    """Hides pixels by zeros (mid grey), in all channels: each with a probability drawn for its image, 0 to `share`.

    Beside a `Mask`, which is fixed for each real image, it hides further pixels, anew whenever an image is seen: D
    cannot learn the masks by heart, and images that explain the doubly masked data explain the masked data (as in
    arXiv:2305.19256, with a probability of its own for each image).

    Args:
        share: largest probability that a pixel is hidden, 0 to 1.

    Raises:
        ValueError: for a share outside [0, 1].
    """

    def __init__(self, share: float = 0.5):
        super().__init__()
        self.share = checked_ratio(self, share, "share")

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.share * torch.rand(len(images), 1, 1, 1, device=images.device)
        return images * (torch.rand(images[:, :1].shape, device=images.device) >= hidden)


class Several(Augmentation):
    """Augmentations one after another, each of which hits an image with the probability `strength`.

    Args:
        augmentations: at least one.

    Raises:
        ValueError: without augmentations.
    """

    strength: Tensor | float

    def __init__(self, augmentations: list[Augmentation]):
        super().__init__()
        if not augmentations:
            raise ValueError(
                f"{type(self).__name__} needs augmentations: list at least one, src.images.augment.Translation for"
                " instance"
            )
        self.augmentations = nn.ModuleList(augmentations)

    def check(self, loss: Any) -> None:
        for augmentation in self.augmentations:
            augmentation.check(loss)

    def advance(self, step: int) -> None:
        for augmentation in self.augmentations:
            augmentation.advance(step)

    def observe(self, real_logits: Tensor) -> None:
        for augmentation in self.augmentations:
            augmentation.observe(real_logits)

    def forward(self, images: Tensor) -> Tensor:
        for augmentation in self.augmentations:
            hit = torch.rand(len(images), 1, 1, 1, device=images.device) < self.strength
            images = torch.where(hit, augmentation(images), images)
        return images


class Sometimes(Several):
    """Each augmentation hits an image with a given probability; R3GAN's rises along a cosine (arXiv:2501.05441).

    Args:
        augmentations: applied one after another, each with the probability `strength`.
        strength: 0 to 1, or a schedule over the images seen; above 0.8, G may learn to augment (arXiv:2006.06676,
            Section 2.2).

    Raises:
        ValueError: without augmentations, or for a strength outside [0, 1].
    """

    def __init__(self, augmentations: list[Augmentation], strength: float | Schedule):
        super().__init__(augmentations)
        smallest, largest = extremes(strength)
        if smallest < 0 or largest > 1:
            raise ValueError(f"strength of Sometimes must be in [0, 1], got {smallest} to {largest}")
        self.strength = strength


class Adaptive(Several):
    """Each augmentation hits an image with a probability that grows where D learns the data by heart (ADA).

    Every 4 steps the probability rises if the mean sign of D(x) over the real images lies above `target`, and falls
    otherwise: arXiv:2006.06676, Section 3, with any augmentations in place of its pipeline. Logits above 0 must mean
    "real", so not with a relativistic, least-squares or Wasserstein loss.

    Args:
        augmentations: applied one after another, each with the probability `strength`.
        target: of the mean sign, -1 to 1.
        images: real images in which the probability can go from 0 to 1.
        limit: of the probability; above 0.8, G may learn to augment (Section 2.2).

    Raises:
        ValueError: without augmentations, or for a target, a number or a limit out of range.
    """

    def __init__(
        self, augmentations: list[Augmentation], target: float = 0.6, images: int = 500000, limit: float = 0.8
    ):
        super().__init__(augmentations)
        if not -1 <= target <= 1 or images < 1 or not 0 <= limit <= 1:
            raise ValueError(
                f"{type(self).__name__} needs a target in [-1, 1], images >= 1 and a limit in [0, 1], got {target},"
                f" {images} and {limit}"
            )
        self.target, self.images, self.limit = target, images, limit
        for name in ("strength", "signs", "seen"):  # the latter two since the strength was last adjusted
            self.register_buffer(name, torch.zeros(()))

    def check(self, loss: Any) -> None:
        if not loss.calibrated:
            why = f"goes by the signs of logits, which mean nothing to {type(loss).__name__}: leave it out"
            raise ValueError(f"{type(self).__name__} {why}")
        super().check(loss)

    def advance(self, step: int) -> None:
        super().advance(step)
        if step % 4 == 0:
            change = (self.signs - self.target * self.seen).sign() * self.seen / self.images
            self.strength.add_(change).clamp_(0, self.limit)
            self.signs.zero_()
            self.seen.zero_()

    def observe(self, real_logits: Tensor) -> None:
        signs = real_logits.sign().sum()  # 0 for a logit that is not a number
        average_([signs])  # now, so that a checkpoint of one process is that of all
        self.signs += world_size() * signs
        self.seen += world_size() * len(real_logits)
        super().observe(real_logits)


def shifted(images: Tensor, ratio: float, beyond: str = "constant") -> Tensor:
    """Images [B, C, H, W] moved by whole pixels, each by its own random number of them.

    Args:
        images: to be moved.
        ratio: largest shift as a share of the height and width, 0 to 1.
        beyond: what comes from beyond the border, as `torch.nn.functional.pad` calls it.
    """
    down, right = (int(length * ratio + 0.5) for length in images.shape[2:])
    padded = F.pad(images, (right, right, down, down), mode=beyond).movedim(1, 3)
    here = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = (
        torch.randint(2 * room + 1, (len(images), 1), device=images.device) + torch.arange(length, device=images.device)
        for length, room in zip(images.shape[2:], (down, right), strict=True)
    )
    places = (here * padded.shape[1] + rows[:, :, None]) * padded.shape[2] + columns[:, None, :]
    return padded.flatten(0, 2).index_select(0, places.flatten()).unflatten(0, places.shape).movedim(3, 1)


def checked_ratio(part: Augmentation, ratio: float, name: str = "ratio") -> float:
    if not 0 <= ratio <= 1:
        raise ValueError(f"{name} of {type(part).__name__} must be in [0, 1], got {ratio}")
    return ratio
