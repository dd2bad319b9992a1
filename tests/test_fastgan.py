"""FastGAN: published sizes, skip-layer excitation, noise, reconstructions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from src.networks import dcgan, fastgan
from src.objectives.consistency import SelfSupervision


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("size", "of_generator", "of_discriminator"),
    [(256, 29_127_846, 11_526_160), (512, 29_174_392, 11_526_496), (1024, 29_176_512, 11_528_192)],
)
def test_parameters_are_as_many_as_published(size, of_generator, of_discriminator, monkeypatch):
    monkeypatch.setattr(
        fastgan.layers, "add_spectral_norm", lambda network, embeddings=True: None
    )  # adds none; slow on this device
    with torch.device("meta"):
        generator = fastgan.Generator((size, size), 3)
        discriminator = fastgan.Discriminator((size, size), 3, decoders=True)
    small_image = 3 * 64  # a layer of the published generator that ours has not
    assert [count(generator) + small_image, count(discriminator)] == [of_generator, of_discriminator]


def test_an_excitation_weights_the_channels_of_the_large_map():
    layer = fastgan.Excitation(3, 5)
    small, large = torch.randn(2, 3, 8, 12), torch.randn(2, 5, 6, 7)
    pooled = F.adaptive_avg_pool2d(small, 4)
    h = F.silu(torch.einsum("bihw,oihw->bo", pooled, layer[1].weight))
    weights = (h @ layer[3].weight[:, :, 0, 0].T).sigmoid()
    torch.testing.assert_close(layer(small, large), large * weights[:, :, None, None])


def test_maps_are_weighted_by_those_16_times_smaller_and_by_those_8_times_larger():
    generator, discriminator = fastgan.Generator((64, 96), 3, width=2), fastgan.Discriminator((64, 96), 3, width=2)
    seen = {}
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, fastgan.Excitation):
                module.register_forward_pre_hook(lambda m, given: seen.update({m: [tuple(t.shape[2:]) for t in given]}))
    discriminator(generator(torch.randn(2, 256)))
    assert list(seen.values()) == [[(4, 6), (64, 96)], [(64, 96), (8, 12)]]


def test_noise_is_drawn_in_training_and_fixed_in_evaluation():
    layer, x = fastgan.Noise((4, 5)), torch.randn(3, 2, 4, 5)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.strength, 0.5)
    noise = (layer(x) - x) / 0.5
    torch.testing.assert_close(noise[:, :1], noise[:, 1:])
    assert not torch.allclose(noise[0], noise[1]) and not torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), x + 0.5 * layer.fixed)
    doubled = [len(block.convolutions) for block in fastgan.Generator((64, 64), 3, width=2).blocks]
    assert doubled == [2, 1, 2, 1]  # at 8, 16, 32 and 64 pixels


def test_the_logit_is_the_mean_over_the_patches_of_both_branches():
    network = fastgan.Discriminator((64, 64), 3, width=2).eval()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    small = F.avg_pool2d(x, 2)
    of_whole = network.to_logits(network.features(network.maps(x)[-1]))
    of_small = network.small_to_logits(network.small(small))
    assert of_whole.shape == of_small.shape == (2, 1, 5, 5)
    torch.testing.assert_close(network(x), (of_whole.mean((1, 2, 3)) + of_small.mean((1, 2, 3))) / 2)


@pytest.mark.parametrize("image_size", [(64, 64), (32, 48)])
def test_decoders_make_the_small_image_a_quarter_and_the_small_image(image_size):
    network = fastgan.Discriminator(image_size, 3, width=2, decoders=True)
    x = torch.rand(2, 3, *image_size) * 2 - 1
    small = F.avg_pool2d(x, 2)
    seen = set()
    height, width = (side // 2 for side in image_size)
    quarters = [x[:, :, i : i + height, j : j + width] for i in (0, height) for j in (0, width)]
    for _ in range(20):
        (a, whole), (b, quarter), (c, again) = network.reconstructions(x)
        assert a.shape == b.shape == c.shape == small.shape
        assert torch.equal(whole, small) and torch.equal(again, small)
        seen |= {i for i, each in enumerate(quarters) if torch.equal(quarter, each)}
    assert seen == {0, 1, 2, 3}


def test_decoders_are_as_wide_as_the_discriminator():
    for width in (64, 8):
        (decoder, *_) = fastgan.Discriminator((256, 256), 3, width=width, decoders=True).decoders
        widths = [layer.num_features // 2 for layer in decoder if isinstance(layer, nn.BatchNorm2d)]
        assert widths == [2 * width, width, width, width // 2]  # published: 128, 64, 64, 32


def test_the_decoder_of_a_quarter_sees_the_features_of_that_quarter():
    network = fastgan.Discriminator((32, 32), 3, width=2, decoders=True).eval()
    seen: list = []
    network.decoders[1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    wanted = network.reconstructions(x)[1][1]
    features, side = network.maps(x)[-2], len(seen[0][0, 0])
    for i in (0, 1):
        for j in (0, 1):
            here = torch.equal(wanted, x[:, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16])
            window = features[:, :, side * i : side * i + side, side * j : side * j + side]
            assert torch.allclose(seen[0], window) == here


def test_self_supervision_trains_decoders_and_features():
    network = fastgan.Discriminator((32, 32), 3, width=2, decoders=True)
    real, term = torch.rand(4, 3, 32, 32) * 2 - 1, SelfSupervision()
    term.check(network)
    torch.manual_seed(1)
    value = term.penalty(network, real, None, None)
    torch.manual_seed(1)
    errors = [(made - image).square().mean() for made, image in network.reconstructions(real)]
    assert len(errors) == 3 and value.item() == pytest.approx(sum(errors).item(), rel=1e-3)
    value.backward()
    trained = [*network.decoders.parameters(), *network.stem.parameters(), *network.small.parameters()]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained)
    for without in (fastgan.Discriminator((32, 32), 3, width=2), dcgan.Discriminator((32, 32), 3, width=2)):
        with pytest.raises(ValueError, match="SelfSupervision needs decoders: take fastgan.Discriminator"):
            term.check(without)


def test_sizes_beyond_the_published_are_refused():
    for cls in (fastgan.Generator, fastgan.Discriminator):
        with pytest.raises(ValueError, match="at most 8 blocks, for 1,024 pixels, not 9"):
            cls((2048, 2048), 3, width=2)
    with pytest.raises(ValueError, match="set decoders to false"):
        fastgan.Discriminator((8, 8), 3, width=2, decoders=True)
