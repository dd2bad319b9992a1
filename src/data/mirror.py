"""Whether images look like their mirror images, as photographs do, or not, as letters and digits."""

import numpy as np
import torch
import torch.nn.functional as F

from src.images.augment import Premultiply
from src.images.pixels import from_uint8

FEWEST, MOST = 20, 1000  # images that are looked at; fewer may all be told by chance
SIDE = 16  # pixels that they are reduced to
RIDGE = 0.1  # of the mean variance of a pixel, added to each


def told_from_mirror(images: np.ndarray) -> float:
    """The share of some images that a linear classifier tells from their mirror images: 0.5 by chance, at most 1.

    It is fitted to every other image and asked about the rest, and the other way round. Up to 1,000 are looked at, at
    16x16 pixels; of fewer than 20 the answer is chance.

    Args:
        images: uint8 [N, C, H, W].
    """
    if len(images) < FEWEST:
        return 0.5
    order = np.random.RandomState(0).permutation(len(images))[:MOST]  # names in order may alternate in kind
    seen = Premultiply()(from_uint8(torch.from_numpy(images[order])))
    seen = F.interpolate(seen, [min(side, SIDE) for side in seen.shape[2:]], mode="area")
    # Mirrored, a difference of halves only changes its sign: the classifier is a direction, without a threshold.
    halves = (seen - seen.flip(3))[..., : seen.shape[3] // 2].flatten(1).double()
    return sum(told(halves[i::2], halves[1 - i :: 2]) for i in range(2)) / 2


def told(known: torch.Tensor, asked: torch.Tensor) -> float:
    """Fits Fisher's direction to some differences, and counts others on its right side; half of those on the edge."""
    moments = known.T @ known / len(known)
    ridge = RIDGE * moments.diagonal().mean() + 1e-12  # images that are symmetric to the last pixel have no variance
    direction = torch.linalg.solve(moments + ridge * torch.eye(len(moments), dtype=moments.dtype), known.mean(0))
    return ((asked @ direction).sign() / 2 + 0.5).mean().item()
