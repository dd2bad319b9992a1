"""Our figures for other programs: as metrics of torchmetrics."""

import torch
import torchmetrics
from torch import Tensor

from src.metrics.features import Extractor, Inception
from src.metrics.fid import frechet_distance
from src.metrics.statistics import Features, sums


class FrechetDistance(torchmetrics.Metric):
    """Frechet distance as `test` computes it (FID, arXiv:1706.08500), exact for any number of images.

    The extractor is no submodule: nothing of it reaches a checkpoint, and it is always in evaluation mode, in float32.

    Args:
        extractor: what computes the features; Inception makes this the FID.
        reset_real_features: whether `reset` forgets the real images too.

    Raises:
        FileNotFoundError: weights are missing.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self, extractor: Extractor | None = None, reset_real_features: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.extractor = (extractor or Inception()).load()
        self.reset_real_features = reset_real_features
        size = self.extractor.num_features + 1
        for name in ("real", "fake"):  # products, sums and number of the features of the images, see `sums`
            self.add_state(name, torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, images: Tensor, real: bool) -> None:
        """Adds images.

        Args:
            images: uint8 [B, C, H, W], 0 to 255.
            real: whether they are real or generated ones.
        """
        if len(images) == 0:
            return
        more = sums(self.extractor.to(self.device)(images).cpu()).to(self.device)
        if real:  # in float64 again where a module around it was moved to another type
            self.real = self.real.double() + more
        else:
            self.fake = self.fake.double() + more

    def compute(self) -> Tensor:
        """The distance, float64.

        Raises:
            ValueError: fewer than two real or two generated images.
        """
        empty = torch.empty(0, self.extractor.num_features)
        real, fake = (Features(empty, rest=state.double().cpu()[None]) for state in (self.real, self.fake))
        if min(real.count, fake.count) < 2:
            raise ValueError(
                f"FrechetDistance takes at least 2 real and 2 generated images, and there are {real.count} and"
                f" {fake.count}: call update(images, real=...) with more"
            )
        return torch.tensor(frechet_distance(real, fake), dtype=torch.float64, device=self.device)

    def reset(self) -> None:
        """Forgets the images, the real ones too unless `reset_real_features` is false."""
        real = self.real
        super().reset()
        if not self.reset_real_features:
            self.real = real
