"""Up- and down-sampling with the filter 1-3-3-1."""

import numpy as np
import pytest
import torch
from scipy import signal

from src.networks.resampling import Blur, Downsample, Upsample

SIDE = np.array([1, 3, 3, 1]) / 8
KERNEL = np.outer(SIDE, SIDE)


def one(layer, image):
    return layer(torch.as_tensor(image, dtype=torch.float32)[None, None])[0, 0].numpy()


def test_resampling_is_the_filter_of_signal_processing():
    image = np.random.default_rng(0).normal(size=(6, 10))
    spread = np.zeros((12, 20))
    spread[::2, ::2] = image
    full = signal.convolve2d(image, KERNEL)
    np.testing.assert_allclose(one(Blur(3), image), full, atol=1e-6)
    np.testing.assert_allclose(one(Downsample(), image), full[2:-2:2, 2:-2:2], atol=1e-6)
    np.testing.assert_allclose(one(Upsample(), image), 4 * signal.convolve2d(spread, KERNEL)[1:-2, 1:-2], atol=1e-6)


def test_borders_are_zeros_as_in_the_published_networks():
    up, down = one(Upsample(), np.ones((4, 4))), one(Downsample(), np.ones((8, 8)))
    assert (up[0, 0], up[0, 3], up[3, 3]) == (0.5625, 0.75, 1)
    assert (down[0, 0], down[0, 1], down[1, 1]) == (0.765625, 0.875, 1)
    rows = one(Upsample(), np.tile(np.arange(4), (4, 1)))
    np.testing.assert_allclose(rows[3], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 2.25])
    rows = one(Downsample(), np.tile(np.arange(8), (8, 1)))
    np.testing.assert_allclose(rows[1], [0.625, 2.5, 4.5, 5.5])


def test_white_noise_loses_the_published_share_of_its_variance():
    noise = torch.randn(64, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    assert Downsample()(noise)[..., 1:-1, 1:-1].var().item() == pytest.approx(0.09765625, rel=0.02)
    assert Upsample()(noise)[..., 2:-2, 2:-2].var().item() == pytest.approx(0.390625, rel=0.02)


@pytest.mark.parametrize("layer", [Blur(), Downsample(), Upsample()], ids=lambda layer: type(layer).__name__)
def test_resampling_is_differentiable_twice(layer):
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer.double(), x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), x)
