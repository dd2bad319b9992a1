"""Is what was generated what was asked for? A classifier judges."""

from typing import Any

import torch
from torch import Tensor

from src.images.pixels import to_uint8
from src.metrics.base import Score, check_classifies
from src.metrics.features import Extractor


class Judged(Score):
    """Shares of the generated samples that are right, as a classifier finds their classes.

    Args:
        extractor: one with class logits, whose classes are the labels of the data: `Classifier` for digits.

    Raises:
        ValueError: an extractor without classes.
    """

    higher_is_better = True

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    def setup(self, device: torch.device | str, shared: Extractor | None = None) -> None:
        self.extractor.to(device).load()
        check_classifies(self, self.extractor)

    def classes(self, images: Tensor) -> Tensor:
        """The class int64 [N] of each of the images [N, C, H, W] in [-1, 1]."""
        return torch.cat([self.extractor.both(part)[1].argmax(1).cpu() for part in to_uint8(images).split(64)])

    def figure(self, name: str, right: Tensor, protocol: dict[str, Any]) -> dict[str, Any]:
        """A share of right samples, bool [N], with the standard error of a share of so many."""
        share = right.double().mean().item()
        error = (share * (1 - share) / len(right)) ** 0.5
        return {"name": name, "value": share, "error": error, "protocol": {"extractor": self.extractor.name} | protocol}
