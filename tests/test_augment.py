"""Augmentations."""

import pytest
import torch

from src.augment import InstanceNoise


def test_instance_noise_has_its_deviation_and_fades_linearly():
    noise = InstanceNoise(sigma=0.5, steps=100)
    images = torch.zeros(64, 1, 32, 32)
    for step, sigma in ((0, 0.5), (50, 0.25), (90, 0.05)):
        noise.advance(step)
        assert noise(images).std().item() == pytest.approx(sigma, rel=0.02)
    for step in (100, 1000):
        noise.advance(step)
        assert torch.equal(noise(images), images)


@pytest.mark.parametrize("options", [{"sigma": -1.0}, {"steps": 0}])
def test_instance_noise_refuses(options):
    with pytest.raises(ValueError, match="sigma >= 0 and steps >= 1"):
        InstanceNoise(**options)
