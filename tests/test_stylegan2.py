"""StyleGAN2: the published networks in their sizes and at their start, and their layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.engine.distributed import batch_norm_statistics
from src.networks import stylegan2
from src.networks.equalized import Conv, Linear, ModulatedConv, normalized
from src.networks.resampling import Blur

TINY = {"width": 8, "latent_dim": 6}
SMALL = {"width": 32, "latent_dim": 64}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    "side, num_classes, options, of_generator, of_discriminator",
    [
        (32, 10, {"residual": False}, 20_215_315, 23_089_664),
        (32, 0, {"residual": False}, 19_947_539, 20_720_641),
        (64, 0, {}, 22_243_608, 23_407_361),
        (128, 0, {}, 22_949_277, 23_882_369),
        (256, 0, {}, 23_191_522, 24_001_089),
        (256, 0, {"num_mapping": 8}, 24_767_458, 24_001_089),
        (256, 0, {"num_mapping": 8, "channel_base": 32768}, 30_034_338, 28_864_129),
        (32, 0, SMALL, 96_851, 84_673),
        (32, 0, SMALL | {"residual": False}, 96_851, 81_601),
        (32, 10, SMALL, 101_651, 94_496),
        (32, 10, SMALL | {"residual": False}, 101_651, 91_424),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(
    side, num_classes, options, of_generator, of_discriminator
):
    for_g = {name: value for name, value in options.items() if name != "residual"}
    for_d = {name: value for name, value in options.items() if name not in ("latent_dim", "num_mapping")}
    with torch.device("meta"):
        assert size(stylegan2.Generator((side, side), 3, num_classes, **for_g)) == of_generator
        assert size(stylegan2.Discriminator((side, side), 3, num_classes, **for_d)) == of_discriminator


@pytest.mark.parametrize("side, styles", [(32, 8), (64, 10), (128, 12), (256, 14)])
def test_there_are_as_many_styles_as_in_the_published_networks(side, styles):
    network = stylegan2.Generator((side, side), 3, **TINY)
    assert network.styles(torch.empty(2, 6), None).shape[1] == network.num_styles == styles


# Layers


def modulated(x, conv, w):
    """The source's form: a convolution for each sample, with weights of its own."""
    outs = []
    for sample, style in zip(x, conv.style(w), strict=True):
        weight = conv.weight * style[:, None, None]
        if conv.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        else:
            weight = weight / math.sqrt(weight[0].numel())
        if conv.blur is None:
            outs.append(F.conv2d(sample[None], weight, padding=weight.shape[-1] // 2))
        else:
            spread = sample.new_zeros(1, len(sample), 2 * sample.shape[1] + 3, 2 * sample.shape[2] + 3)
            spread[:, :, 2:-2:2, 2:-2:2] = sample  # zeros between and around, then the mirrored kernel
            outs.append(4 * Blur()(F.conv2d(spread, weight.flip(2, 3))))
    return torch.cat(outs)


@pytest.mark.parametrize(
    "kernel, demodulate, up", [(3, True, False), (3, True, True), (3, False, True), (1, False, False)]
)
def test_a_modulated_convolution_is_one_with_weights_of_its_own_for_each_sample(kernel, demodulate, up):
    conv = ModulatedConv(5, 7, kernel, 4, demodulate, up)
    x, w = torch.randn(3, 5, 6, 4), torch.randn(3, 4)
    expected = modulated(x, conv, w)
    assert expected.shape == (3, 7, 12, 8) if up else (3, 7, 6, 4)
    torch.testing.assert_close(conv(x, w), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "style, demodulate, centre, corner",
    [
        ((1, 2, 3), True, 4.81070, 2.13809),
        ((1, 1, 1), True, 5.19615, 2.30940),
        ((1, 2, 3), False, 54 / 27**0.5, 24 / 27**0.5),
    ],
)
def test_a_modulated_convolution_has_the_published_values(style, demodulate, centre, corner):
    conv = ModulatedConv(3, 4, 3, 1, demodulate)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.style.weight)
    conv.style.bias.data = torch.tensor(style, dtype=torch.float32)
    out = conv(torch.ones(1, 3, 5, 5), torch.zeros(1, 1))
    assert out[0, 0, 2, 2].item() == pytest.approx(centre, rel=1e-5)
    assert out[0, 0, 0, 0].item() == pytest.approx(corner, rel=1e-5)


def test_demodulated_maps_keep_the_variance_whatever_the_style():
    conv = ModulatedConv(16, 16, 3, 4)
    out = conv(torch.randn(8, 16, 32, 32), 5 * torch.randn(8, 4))
    assert out[:, :, 1:-1, 1:-1].var((1, 2, 3)).tolist() == pytest.approx([1] * 8, abs=0.1)


def test_layers_are_scaled_where_they_are_used():
    linear = Linear(5, 3, bias=2.0, rate=0.01)
    assert linear.weight.std().item() == pytest.approx(100, rel=0.5)
    x = torch.randn(4, 5)
    torch.testing.assert_close(linear(x), x @ linear.weight.T * 0.01 / 5**0.5 + 0.02)
    conv = Conv(5, 3, 3)
    x = torch.randn(2, 5, 6, 4)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight / 45**0.5, conv.bias, padding=1))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_that_halves_is_blurred_before(kernel):
    conv = Conv(2, 3, kernel, down=True)
    x = torch.randn(1, 2, 8, 6)
    full = F.conv2d(Blur(padding=4)(x), conv.weight * conv.scale)  # then every second pixel of the middle
    start = 4 - kernel // 2 - 1
    expected = full[:, :, start::2, start::2][:, :, :4, :3]
    torch.testing.assert_close(conv(x), expected)


def test_features_are_normalized_by_their_mean_square():
    torch.testing.assert_close(
        normalized(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.8485, 1.1314]]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    "group_size, expected",
    [(2, [8, 12, 16, 20] * 2), (4, [14, 18.33031] * 4), (1, [1e-4] * 8), (3, [8, 12, 16, 20] * 2)],
)
def test_the_deviation_of_the_minibatch_is_that_of_strided_groups(group_size, expected):
    x = torch.arange(8.0)[:, None, None, None].square().expand(8, 3, 2, 5)
    out = stylegan2.minibatch_deviation(x, group_size)
    assert torch.equal(out[:, :3], x) and out.shape == (8, 4, 2, 5)
    assert out[:, 3].amax((1, 2)).tolist() == pytest.approx(expected) == out[:, 3].amin((1, 2)).tolist()


DOUBLE = {"dtype": torch.float64, "requires_grad": True}


@pytest.mark.parametrize(
    "layer, shapes",
    [
        (ModulatedConv(2, 2, 3, 2), [(2, 2, 3, 3), (2, 2)]),
        (ModulatedConv(2, 1, 3, 2, up=True), [(2, 2, 2, 2), (2, 2)]),
        (Conv(1, 2, 3, down=True), [(1, 1, 4, 4)]),
        (stylegan2.DownBlock(1, 2, residual=True), [(1, 1, 4, 4)]),
        (lambda x: stylegan2.minibatch_deviation(x, 2).square(), [(4, 2, 2, 1)]),
    ],
    ids=["modulated", "modulated up", "down", "block", "minibatch"],
)
def test_gradients_through_each_layer_are_differentiable(layer, shapes):
    layer = layer.double() if isinstance(layer, nn.Module) else layer
    assert torch.autograd.gradgradcheck(layer, [torch.randn(shape, **DOUBLE) for shape in shapes])


# Networks


def test_at_the_start_styles_images_and_logits_are_as_large_as_in_the_published_networks():
    generator = stylegan2.Generator((32, 32), 3, width=64, latent_dim=512)
    discriminator = stylegan2.Discriminator((32, 32), 3, width=64, residual=False)
    z = torch.randn(16, *generator.latent_shape)
    with torch.no_grad():
        assert generator.mapping(z[:, :512], None).std().item() == pytest.approx(0.915, abs=0.05)
        assert generator(z).std().item() == pytest.approx(1.24, abs=0.25)
        assert discriminator(torch.randn(16, 3, 32, 32)).std().item() == pytest.approx(0.05, abs=0.03)


def test_the_noise_of_a_sample_is_the_last_part_of_its_latent():
    generator = stylegan2.Generator((16, 8), 1, **TINY).eval()
    assert (
        generator.latent_shape
        == (6 + 8 * 4 * 1 + 2 * 16 * 8,)
        == stylegan2.Generator((16, 8), 1, 2, **TINY).latent_shape
    )
    z = torch.randn(2, *generator.latent_shape)
    other = torch.cat([z[:, :6], torch.randn_like(z[:, 6:])], 1)
    assert torch.equal(generator(z), generator(other))  # its strength starts at 0
    for layer in generator.layers:
        nn.init.ones_(layer.strength)
    assert not torch.equal(generator(z)[0], generator(other)[0])
    assert torch.equal(generator(z)[1:], generator(torch.cat([other[:1], z[1:]]))[1:])
    assert stylegan2.Generator((16, 8), 1, noise=False, **TINY).latent_shape == (6,)


def test_each_layer_is_shown_a_map_of_its_own():
    generator = stylegan2.Generator((8, 8), 1, **TINY)
    given = []
    for layer in generator.layers:
        layer.register_forward_hook(lambda _, inputs, output: given.append(inputs[2]))
    z = torch.arange(float(generator.latent_shape[0]))[None]
    generator(z)
    assert torch.equal(torch.cat([noise.flatten() for noise in given]), z[0, 6:])
    assert [noise.shape[2:] for noise in given] == [(4, 4), (8, 8), (8, 8)]


def test_styles_are_mixed_in_training_alone_and_switch_once():
    generator = stylegan2.Generator((32, 32), 1, style_mixing=0.5, **TINY)
    z = torch.randn(400, 6)
    styles = generator.styles(z, None).transpose(0, 1)  # [8, 400, 6]
    own, other = (styles == generator.mapping(z, None)).all(2), (styles == styles[-1]).all(2)
    mixed = ~own[-1]
    assert own[0].all() and mixed.float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert (own ^ other)[:, mixed].all() and (own.int().diff(dim=0) <= 0).all()
    assert set(own.sum(0)[mixed].tolist()) == set(range(1, 8))
    generator.eval()
    assert all(torch.equal(style, generator.mapping(z, None)) for style in generator.styles(z, None).unbind(1))


def test_the_mean_style_is_followed_in_training_and_truncates_in_evaluation():
    generator = stylegan2.Generator((8, 8), 1, truncation=0.25, **TINY)
    z = torch.randn(50, 6)
    w = generator.mapping(z, None)
    torch.testing.assert_close(generator.mapping.average, 0.005 * w.mean(0))
    generator.mapping.average.copy_(torch.arange(6.0))
    assert torch.equal(generator.styles(z, None)[:, 0], generator.mapping(z, None))
    generator.eval().mapping.average.copy_(torch.arange(6.0))
    torch.testing.assert_close(generator.styles(z, None)[:, 2], torch.arange(6.0) + 0.25 * (w - torch.arange(6.0)))


def test_processes_agree_on_the_mean_style():
    generator = stylegan2.Generator((8, 8), 1, 3, **TINY)
    discriminator = stylegan2.Discriminator((8, 8), 1, 3, width=8)
    assert batch_norm_statistics(nn.ModuleList([generator, discriminator])) == [generator.mapping.average]


def test_images_of_all_resolutions_are_summed():
    generator = stylegan2.Generator((16, 16), 1, **TINY)
    images = []
    for i, layer in enumerate(generator.to_pixels):
        layer.register_forward_hook(
            lambda _, inputs, output, i=i: images.append(output + generator.biases[i][:, None, None])
        )
    nn.init.normal_(generator.biases[0])
    out = generator(torch.randn(2, *generator.latent_shape))
    up = generator.upsample
    torch.testing.assert_close(out, up(up(images[0]) + images[1]) + images[2])


def test_a_residual_block_is_its_branch_and_its_shortcut_each_of_half_the_variance():
    block, x = stylegan2.DownBlock(3, 5, residual=True), torch.randn(2, 3, 8, 6)
    before = x.clone()
    h = block.conv2(F.leaky_relu(block.conv1(x), 0.2) * 2**0.5)
    expected = (F.leaky_relu(h, 0.2) * 2**0.5 + block.shortcut(x)) / 2**0.5
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)


def test_styles_are_computed_in_float32_under_autocast():
    generator = stylegan2.Generator((8, 8), 1, **TINY)
    dtypes = []
    for module in (generator.mapping, generator.layers[0].conv.style, generator.layers[1].conv, generator):
        module.register_forward_hook(lambda _, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        generator(torch.randn(2, *generator.latent_shape))
    assert dtypes == [torch.float32, torch.float32, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("options", [{"style_mixing": 1.5}, {"truncation": -0.1}, {"channel_base": 8}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        stylegan2.Generator((32, 32), 1, **options)
    with pytest.raises(ValueError, match="group_size must be at least 1"):
        stylegan2.Discriminator((32, 32), 1, group_size=0)
