"""R3GAN: the published networks in their sizes and at their start, and their layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.networks import r3gan

TINY = {"width": 32, "stage_depth": 1}
SMALL = {"width": 256, "stage_depth": 1}
IMAGENET = {"width": 1536, "group_size": 32}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    "side, num_classes, options, of_generator, of_discriminator",
    [
        (32, 10, {}, 20_781_952, 21_280_512),
        (32, 0, {}, 20_732_160, 20_683_776),
        (64, 0, {}, 22_429_824, 22_381_440),
        (128, 0, {}, 22_910_016, 22_861_632),
        (256, 0, {}, 23_057_952, 23_009_568),
        (32, 1000, IMAGENET, 82_914_304, 86_548_992),
        (64, 1000, IMAGENET | {"num_wide": 5}, 103_570_432, 107_205_120),
        (32, 0, SMALL, 1_368_832, 1_352_704),
        (32, 0, TINY | {"latent_dim": 16}, 54_880, 54_400),
        (32, 10, TINY | {"latent_dim": 16}, 55_552, 55_712),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(
    side, num_classes, options, of_generator, of_discriminator
):
    with torch.device("meta"):
        assert size(r3gan.Generator((side, side), 3, num_classes, **options)) == of_generator
        options = {name: value for name, value in options.items() if name != "latent_dim"}
        assert size(r3gan.Discriminator((side, side), 3, num_classes, **options)) == of_discriminator


@pytest.mark.parametrize("cls", [r3gan.Generator, r3gan.Discriminator])
def test_the_stage_at_the_grid_has_the_full_width(cls):
    with pytest.raises(ValueError, match="num_wide must be at least 1, not 0"):
        cls((8, 8), 1, num_wide=0)


def test_a_block_is_its_formula_and_adds_to_its_input():
    block = r3gan.Block(12, group_size=8, num_blocks=1)
    first, _, grouped, _, last = block.residual
    nn.init.normal_(last.weight)
    nn.init.normal_(grouped.bias)
    assert grouped.groups == 3 and last.bias is None
    x = torch.randn(2, 12, 5, 4)
    h = F.leaky_relu(torch.einsum("oi,bihw->bohw", first.weight[..., 0, 0], x), 0.2)
    groups = [F.conv2d(h[:, i : i + 8], grouped.weight[i : i + 8], padding=1) for i in (0, 8, 16)]
    h = F.leaky_relu(torch.cat(groups, 1) + grouped.bias[:, None, None], 0.2)
    torch.testing.assert_close(block(x), x + torch.einsum("oi,bihw->bohw", last.weight[..., 0, 0], h))


def test_gradients_through_a_block_are_differentiable():
    block = r3gan.Block(2, group_size=2, num_blocks=1).double()
    nn.init.normal_(block.residual[-1].weight)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(block, x)


@pytest.mark.parametrize("depth, stages, gain", [(2, 4, 0.824567), (2, 5, 0.779827), (2, 7, 0.716913)])
def test_blocks_start_as_the_identity_and_smaller_the_more_there_are(depth, stages, gain):
    networks = [cls((4 * 2 ** (stages - 1),) * 2, 3, width=64) for cls in (r3gan.Generator, r3gan.Discriminator)]
    for network in networks:
        blocks = [module for module in network.modules() if isinstance(module, r3gan.Block)]
        assert len(blocks) == depth * stages
        first, _, grouped, _, last = (blocks[0] if network is networks[0] else blocks[-1]).residual
        assert first.weight.std().item() == pytest.approx(gain / math.sqrt(64), rel=0.03)
        assert grouped.weight.std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.03)
        assert not last.weight.any() and not first.bias.any()


@pytest.mark.parametrize("num_classes, of_images, of_logits", [(10, 0.36, 0.02), (0, 0.45, 0.02 * 10**0.5)])
def test_at_the_start_images_and_logits_are_as_large_as_in_the_published_networks(num_classes, of_images, of_logits):
    labels = torch.arange(16) % 10 if num_classes else None
    generator = r3gan.Generator((32, 32), 3, num_classes, **SMALL)
    discriminator = r3gan.Discriminator((32, 32), 3, num_classes, **SMALL)
    with torch.no_grad():
        images = generator(torch.randn(16, 64), labels)
        logits = discriminator(torch.randn(16, 3, 32, 32), labels)
    assert images.std().item() == pytest.approx(of_images, abs=0.1)
    assert logits.std().item() == pytest.approx(of_logits, rel=0.5)


def test_classes_of_the_discriminator_are_an_inner_product():
    discriminator = r3gan.Discriminator((8, 8), 1, 3, **TINY)
    features = []
    discriminator.linear.register_forward_hook(lambda _, inputs, output: features.append(output))
    labels = torch.tensor([2, 0])
    logits = discriminator(torch.randn(2, 1, 8, 8), labels)
    weights = discriminator.embed.weight
    torch.testing.assert_close(logits, torch.stack([features[0][i] @ weights[labels[i]] for i in range(2)]))


def test_images_are_bounded_where_they_are_shown_and_free_in_training():
    generator = r3gan.Generator((8, 8), 1, **TINY)
    generator.to_pixels.weight.data *= 20
    z = torch.randn(4, 64)
    free = generator(z)
    assert free.abs().max() > 1
    torch.testing.assert_close(generator.eval()(z), free.clamp(-1, 1))


def test_the_stage_at_the_lowest_resolution_runs_in_float32_under_autocast():
    generator, discriminator = r3gan.Generator((16, 16), 1, **TINY), r3gan.Discriminator((16, 16), 1, **TINY)
    dtypes = {}
    for player, network in (("G", generator), ("D", discriminator)):
        for number, stage in enumerate(network.stages):
            block = next(module for module in stage if isinstance(module, r3gan.Block))
            name = f"{player} {number}"
            block.residual[0].register_forward_hook(lambda _, x, y, name=name: dtypes.update({name: y.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        discriminator(generator(torch.randn(2, 64)))
    assert [name for name, dtype in dtypes.items() if dtype == torch.float32] == ["G 0", "D 2"] and len(dtypes) == 6
