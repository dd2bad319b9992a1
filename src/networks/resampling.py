"""Up- and down-sampling with the filter 1-3-3-1 of StyleGAN2 (arXiv:1912.04958) and R3GAN (arXiv:2501.05441).

Pixels beyond the border count as zero, as in both sources.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Blur(nn.Module):
    """The separable filter 1-3-3-1 on each channel: [B, C, H, W] -> [B, C, H + 2p - 3, W + 2p - 3].

    Args:
        padding: p, zeros on every side.
        gain: sum of the filter.
    """

    stride = 1

    def __init__(self, padding: int = 1, gain: float = 1.0):
        super().__init__()
        self.padding = padding
        side = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", gain * side.outer(side)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernels, stride=self.stride, padding=self.padding, groups=x.shape[1])


class Downsample(Blur):
    """Blurs, then keeps every second pixel: [B, C, 2H, 2W] -> [B, C, H, W]."""

    stride = 2


class Upsample(Blur):
    """Puts zeros between the pixels, then blurs with gain 4: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self):
        super().__init__(gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv_transpose2d(x, kernels, stride=2, padding=self.padding, groups=x.shape[1])
