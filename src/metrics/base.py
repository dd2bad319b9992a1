"""What every metric of generated images offers to the training loop."""

import torch
from torch import Tensor


class Metric:
    """A score of generated images against real ones.

    A plain object, not a module: nothing of it lands in a checkpoint. Every process feeds its own share of the
    images, in batches of any size or none at all, and every process must call `compute`.

    Attributes:
        name: key under which the value is logged; known after `setup`.
        split: real images it is computed against, "train" or "test".
        has_real: whether the real images need not be fed again. Becomes true in `compute`, thus on every process at
            once, and stays so until `reset(real=True)`.
        higher_is_better: direction of the score.
    """

    name: str
    split: str
    has_real: bool = False
    higher_is_better: bool = False

    def setup(self, device: torch.device | str) -> None:
        """Loads what the metric needs onto a device. Calling it again moves it and keeps what was fed.

        Raises:
            FileNotFoundError: weights are missing.
            ValueError: weights cannot be used.
        """
        raise NotImplementedError

    def update(self, images: Tensor, real: bool) -> None:
        """Feeds uint8 images [B, C, H, W], real or fake."""
        raise NotImplementedError

    def compute(self) -> float:
        """The score over the images of all processes, the same on each; a collective call."""
        raise NotImplementedError

    def reset(self, real: bool = False) -> None:
        """Forgets the fake images, and the real ones too if asked."""
        raise NotImplementedError

    def protocol(self) -> dict:
        """How the last computed value came about: numbers of images, split, extractor."""
        raise NotImplementedError
