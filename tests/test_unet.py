"""The U-Net discriminator: published size, what its two kinds of logits see."""

import pytest
import torch
from torch import nn

from src.networks import unet


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("size", "published"), [(128, 31_481_667), (256, 44_067_651)])
def test_parameters_are_as_many_as_published(size, published, monkeypatch):
    monkeypatch.setattr(unet, "orthogonal", lambda module: None)  # slow on this device
    with torch.device("meta"):
        network = unet.Discriminator((size, size), 3, spectral_norm=False)
    never_used = 65  # of a layer of the published network
    assert sum(parameter.numel() for parameter in network.parameters()) + never_used == published


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_logit_is_half_that_of_the_image_and_half_the_mean_over_its_pixels(num_classes):
    network = unet.Discriminator((16, 24), 3, num_classes, width=4).eval()
    x, labels = torch.rand(3, 3, 16, 24) * 2 - 1, torch.tensor([0, 2, 1]) if num_classes else None
    logits, pixels = network.both(x, labels)
    assert logits.shape == (3,) and pixels.shape == (3, 16, 24)
    torch.testing.assert_close(network(x, labels), logits / 2 + pixels.mean((1, 2)) / 2)
    if num_classes:
        others = network.both(x, (labels + 1) % 3)
        assert (logits != others[0]).all() and (pixels != others[1]).flatten(1).any(1).all()
        with pytest.raises(ValueError, match="pass a class label"):
            network(x)


def test_the_decoder_reads_the_maps_of_the_encoder():
    """Without what comes from below, a pixel still tells of its surroundings alone."""
    network, x = unet.Discriminator((32, 32), 1, width=4).double().eval(), torch.randn(1, 1, 32, 32).double()
    network.decoder[-2].register_forward_hook(lambda module, given, out: 0 * out)
    changed = x.clone()
    changed[:, :, 0, 0] += 1
    difference = (network.both(changed)[1] - network.both(x)[1])[0].abs()
    assert difference[0, 0] > 1e-6 and difference[16:, 16:].max() == 0


def test_blocks_of_the_decoder_are_the_residual_and_the_shortcut():
    block, x = unet.DecoderBlock(4, 6), torch.randn(2, 4, 5, 3)
    up = nn.Upsample(scale_factor=2)
    h = block.conv2(torch.relu(block.conv1(up(torch.relu(x)))))
    torch.testing.assert_close(block(x), h + block.shortcut(up(x)), rtol=1e-4, atol=1e-5)


def test_it_is_twice_differentiable_and_every_parameter_counts():
    network = unet.Discriminator((8, 16), 3, 2, width=2).double()
    x, labels = torch.randn(4, 3, 8, 16).double().requires_grad_(True), torch.tensor([0, 1, 0, 1])
    (gradient,) = torch.autograd.grad(network(x, labels).sum(), x, create_graph=True)
    (gradient.square().sum() + network(x, labels).sum()).backward()
    assert all(parameter.grad.abs().max() > 1e-10 for parameter in network.parameters())


def test_half_precision_stays_close():
    network, x = unet.Discriminator((16, 16), 3, width=4).eval(), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x)
    torch.testing.assert_close(out.float(), network(x), rtol=0.05, atol=0.05)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"num_down=3.*nearest"):
        unet.Discriminator((28, 28), 3, num_down=3)
