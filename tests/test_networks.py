"""Networks: the contract of every family in src/networks, and the formulas of their layers."""

import importlib
import inspect
import pkgutil
import re

import jsonargparse
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from src import networks
from src.networks import bags, base, biggan, dcgan, fastgan, fully_convolutional, fusion, layers, mlp, resnet, stylegan2

MODULES = [importlib.import_module(f"src.networks.{module.name}") for module in pkgutil.iter_modules(networks.__path__)]
OTHERS = (base, bags, fusion)  # samples that are not single images, conditions that are no labels: own tests
FAMILIES = [m for m in MODULES if m not in OTHERS and hasattr(m, "Generator") and hasattr(m, "Discriminator")]
TINY = {"width": 8, "hidden": (16, 16), "latent_dim": 6}
NUM_IMAGES = 4


def build(cls, image_size=(16, 24), channels=3, num_classes=0, **options):
    """The network, as narrow as its own options allow."""
    names = inspect.signature(cls).parameters
    options = {name: value for name, value in {**TINY, **options}.items() if name in names}
    return cls(image_size, channels, num_classes, **options)


def inputs(network):
    """A batch of what `network` takes: latents or images, and labels where it is conditional."""
    is_generator = isinstance(network, base.Generator)
    shape = network.latent_shape if is_generator else (network.channels, *network.image_size)
    x = torch.randn(NUM_IMAGES, *shape)
    condition = torch.arange(NUM_IMAGES) % network.num_classes if network.num_classes else None
    return (x if is_generator else x.tanh()), condition


def perturb(network):
    """Weights away from their initial values, where some layers, such as conditional gains, are still inactive."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


families = pytest.mark.parametrize("family", FAMILIES, ids=lambda module: module.__name__.split(".")[-1])
players = pytest.mark.parametrize("player", ["Generator", "Discriminator"])
conditions = pytest.mark.parametrize("num_classes", [0, 3])


def test_the_walk_finds_the_families():
    assert {mlp, dcgan, resnet, biggan} <= set(FAMILIES)


@families
@conditions
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("image_size", [(32, 32), (16, 24)])
def test_latents_to_images_to_logits(family, num_classes, channels, image_size):
    generator = build(family.Generator, image_size, channels, num_classes)
    discriminator = build(family.Discriminator, image_size, channels, num_classes)
    for network in (generator, discriminator):
        assert (network.image_size, network.channels, network.num_classes) == (image_size, channels, num_classes)
    z, condition = inputs(generator)
    for parameter in generator.parameters():
        parameter.data *= 100  # saturates whatever bounds the images
    images = generator.eval()(z, condition)  # without tanh they are bounded in evaluation alone
    assert images.shape == (NUM_IMAGES, channels, *image_size)
    assert 0.99 < images.abs().max() <= 1
    logits = discriminator(images, condition)
    assert logits.shape == (NUM_IMAGES,) and logits.isfinite().all()


@families
@players
@conditions
@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "dropout": 0.3}, {"spectral_norm": True}], ids=str)
def test_gradients_reach_every_parameter(family, player, num_classes, options):
    # float64, where a parameter without effect (a bias before batch normalization) has a gradient of 1e-17.
    # Weights that start at zero would hide those before them.
    network = perturb(build(getattr(family, player), num_classes=num_classes, **options)).double()
    x, condition = inputs(network)
    out = network(x.double(), condition)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-10, name


@families
@players
def test_the_condition_changes_the_output(family, player):
    network = perturb(build(getattr(family, player), num_classes=3)).eval()
    x, condition = inputs(network)
    change = network(x, condition) - network(x, (condition + 1) % 3)
    assert (change.reshape(NUM_IMAGES, -1).abs().amax(1) > 1e-4).all()


NORMS = [{"batch_norm": norm == "batch", "spectral_norm": norm == "spectral"} for norm in ("", "batch", "spectral")]


@families
@conditions
@pytest.mark.parametrize("options", [{}, *NORMS], ids=str)
def test_a_discriminator_says_whether_its_logits_are_independent(family, num_classes, options):
    """Of the other images, and of earlier calls: then real and generated images are judged in one."""
    network = perturb(build(family.Discriminator, num_classes=num_classes, **options)).train()
    x, condition = inputs(network)
    half = slice(NUM_IMAGES // 2)
    together, alone = network(x, condition)[half], network(x[half], None if condition is None else condition[half])
    assert network.independent == torch.allclose(together, alone, rtol=1e-4, atol=1e-6)


@families
@players
@conditions
def test_in_evaluation_a_sample_does_not_depend_on_its_batch(family, player, num_classes):
    network = perturb(build(getattr(family, player), num_classes=num_classes))
    if isinstance(network, stylegan2.Discriminator):
        pytest.skip("the deviation over its batch is an input")
    x, condition = inputs(network)
    network(x, condition)
    network.eval()
    alone = network(x[1:2], None if condition is None else condition[1:2])
    torch.testing.assert_close(network(x, condition)[1:2], alone, rtol=1e-4, atol=1e-5)


@families
@players
def test_a_missing_or_superfluous_condition_is_refused(family, player):
    network = build(getattr(family, player), num_classes=3)
    with pytest.raises(ValueError, match="pass a class label"):
        network(inputs(network)[0])
    network = build(getattr(family, player))
    with pytest.raises(ValueError, match="set num_classes, or pass no condition"):
        network(inputs(network)[0], torch.zeros(NUM_IMAGES, dtype=torch.long))


@families
@players
@pytest.mark.parametrize("facts", [((0, 8), 3, 0), ((8, 8), 0, 0), ((8, 8), 3, -1)])
def test_impossible_facts_are_refused(family, player, facts):
    with pytest.raises(ValueError, match="must be"):
        getattr(family, player)(*facts)


@families
@conditions
def test_discriminators_without_batch_norm_are_twice_differentiable(family, num_classes):
    discriminator = build(family.Discriminator, num_classes=num_classes, batch_norm=False)
    x, condition = inputs(discriminator)
    (gradient,) = torch.autograd.grad(discriminator(x.requires_grad_(True), condition).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients) and any(g.abs().max() > 0 for g in gradients)


@families
@players
@conditions
def test_half_precision_runs_and_stays_close(family, player, num_classes):
    network = build(getattr(family, player), num_classes=num_classes).eval()
    x, condition = inputs(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x, condition)
    torch.testing.assert_close(out.float(), network(x, condition), rtol=0.05, atol=0.05)


@families
@players
def test_the_exported_program_and_the_network_agree(family, player):
    network = perturb(build(getattr(family, player), (8, 8), num_classes=3)).eval()
    given = inputs(network)
    torch.testing.assert_close(torch.export.export(network, given).module()(*given), network(*given))


@pytest.mark.slow
@families
@players
@conditions
def test_the_network_compiles_into_one_graph(family, player, num_classes):
    network = perturb(build(getattr(family, player), (8, 8), num_classes=num_classes)).eval()
    given = inputs(network)
    torch.testing.assert_close(torch.compile(network, backend="aot_eager", fullgraph=True)(*given), network(*given))
    torch._dynamo.reset()


@families
@players
def test_yaml_builds_every_network(family, player):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(getattr(base, player), "network")
    cls = getattr(family, player)
    options = {
        k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items() if k in inspect.signature(cls).parameters
    }
    config = parser.parse_object(
        {
            "network": {
                "class_path": f"{cls.__module__}.{player}",
                "init_args": {"image_size": [16, 24], "channels": 1, "num_classes": 3, **options},
            }
        }
    )
    network = parser.instantiate_classes(parser.parse_string(parser.dump(config))).network
    assert isinstance(network, cls) and network(*inputs(network)).shape[0] == NUM_IMAGES


# Sizes


def named_sizes(message):
    return [tuple(map(int, size)) for size in re.findall(r"(\d+)x(\d+)", message.split("nearest")[1])]


@pytest.mark.parametrize(
    "cls, nearest",
    [
        (dcgan.Generator, [(24, 24), (32, 32)]),
        (dcgan.Discriminator, [(24, 24), (32, 32)]),
        (fully_convolutional.Generator, [(24, 24), (32, 32)]),
        (fully_convolutional.Discriminator, [(24, 24), (32, 32)]),
        (resnet.Generator, [(24, 24), (32, 32)]),
        (resnet.Discriminator, [(28, 28), (28, 32)]),
        (biggan.Generator, [(24, 24), (32, 32)]),
        (biggan.Discriminator, [(28, 28), (28, 32)]),
    ],
)
def test_a_size_that_does_not_fit_names_the_remedies_and_they_work(cls, nearest):
    given = {"num_down": 2} if cls in (resnet.Discriminator, biggan.Discriminator) else {"num_blocks": 3}
    with pytest.raises(ValueError, match="image_size 28x30 is not a multiple of") as error:
        build(cls, (28, 30), **given)
    message = str(error.value)
    assert named_sizes(message) == nearest and "\n" not in message
    for image_size in nearest:
        build(cls, image_size, **given)
    option, value = re.search(r"set (\w+)=(\d+)", message).groups()
    network = build(cls, (28, 30), **{option: int(value)})
    assert network(*inputs(network)).shape[0] == NUM_IMAGES


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_the_nearest_sizes_enclose_the_size_and_are_no_further_than_one_factor(num_blocks):
    factor = 2**num_blocks
    for height in range(1, 20):
        for width in range(1, 20):
            if height % factor == 0 and width % factor == 0:
                assert layers.grid_size((height, width), num_blocks) == (height / factor, width / factor)
                continue
            with pytest.raises(ValueError) as error:
                layers.grid_size((height, width), num_blocks)
            sizes = named_sizes(str(error.value))
            assert len(sizes) == (2 if min(height, width) >= factor else 1)
            for size in sizes:
                layers.grid_size(size, num_blocks)
                assert all(abs(named - side) < factor for named, side in zip(size, (height, width), strict=True))


@pytest.mark.parametrize(
    "image_size, blocks, grid",
    [
        ((2, 2), 1, (1, 1)), ((4, 4), 1, (2, 2)), ((8, 8), 1, (4, 4)), ((12, 12), 1, (6, 6)), ((20, 20), 2, (5, 5)),
        ((28, 28), 2, (7, 7)), ((30, 30), 1, (15, 15)), ((32, 32), 3, (4, 4)), ((48, 64), 3, (6, 8)),
        ((64, 8), 1, (32, 4)), ((64, 64), 4, (4, 4)), ((256, 256), 6, (4, 4)),
    ],
)  # fmt: skip
def test_without_a_number_there_are_as_many_blocks_as_leave_a_grid_of_4_or_more(image_size, blocks, grid):
    assert layers.choose_blocks(None, image_size) == blocks
    assert layers.grid_size(image_size, blocks) == grid
    assert layers.choose_blocks(1, image_size) == 1


CONVOLUTIONAL = [biggan, dcgan, fastgan, fully_convolutional, fusion, resnet]


@pytest.mark.parametrize("family", CONVOLUTIONAL, ids=lambda module: module.__name__.split(".")[-1])
@players
def test_networks_are_built_for_every_even_size_and_know_their_blocks(family, player):
    for image_size in [(2, 2), (6, 10), (28, 28), (32, 64)]:
        network = build(getattr(family, player), image_size, code_dim=8)
        assert (getattr(network, "num_blocks", None) or network.num_down) == layers.choose_blocks(None, image_size)
        x, _ = inputs(network)
        out = network(x) if player == "Generator" or family is not fusion else network.features(x)
        assert player != "Generator" or out.shape == (NUM_IMAGES, 3, *image_size)
    for image_size in [(27, 27), (1, 9), (28, 1)]:
        with pytest.raises(ValueError, match="is not a multiple of 2 .* nearest") as error:
            build(getattr(family, player), image_size, code_dim=8)
        for nearest in named_sizes(str(error.value)):
            build(getattr(family, player), nearest, code_dim=8)


def test_a_size_that_is_soon_odd_is_told_of_a_better_one():
    with pytest.warns(UserWarning, match="250x250 can be halved only so often .1..*256x256 makes smaller ones"):
        layers.choose_blocks(None, (250, 250))


def test_widths_double_up_to_the_largest():
    assert layers.doubled(64, 6, max_width=1024) == [64, 128, 256, 512, 1024, 1024]
    with pytest.raises(ValueError, match="width 64 is above max_width 32"):
        layers.doubled(64, 1, max_width=32)
    network = dcgan.Generator((64, 64), 3, width=4, max_width=8)
    assert [layer.in_channels for layer in network.upsamplings] == [8, 8, 8, 4]


def test_no_blocks_are_refused():
    with pytest.raises(ValueError, match="num_down must be at least 1"):
        build(resnet.Discriminator, num_down=0)


@pytest.mark.parametrize("image_size", [(28, 30), (1, 1), (7, 13)])
def test_the_mlp_takes_any_size(image_size):
    generator = build(mlp.Generator, image_size, channels=2)
    assert build(mlp.Discriminator, image_size, channels=2)(generator(inputs(generator)[0])).shape == (NUM_IMAGES,)


# Layers


def test_conditional_batch_norm_is_its_formula():
    layer = perturb(layers.ConditionalBatchNorm2d(5, num_classes=3))
    x, condition = 2 + 3 * torch.randn(4, 5, 6, 7), torch.tensor([2, 0, 1, 2])
    out = layer(x, condition).detach().numpy()
    x = x.numpy().astype(np.float64)
    normalized = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    for image in range(4):
        gain = layer.gain.weight[condition[image]].detach().numpy()[:, None, None]
        bias = layer.bias.weight[condition[image]].detach().numpy()[:, None, None]
        np.testing.assert_allclose(out[image], gain * normalized[image] + bias, atol=1e-5)


def test_conditional_batch_norm_starts_as_batch_norm_and_is_batch_norm_without_classes():
    x = torch.randn(4, 5, 6, 7)
    expected = nn.BatchNorm2d(5)(x)
    torch.testing.assert_close(layers.ConditionalBatchNorm2d(5, 3)(x, torch.tensor([0, 1, 2, 0])), expected)
    torch.testing.assert_close(layers.ConditionalBatchNorm2d(5)(x), expected)


def test_conditional_batch_norm_keeps_the_dtype_of_half_precision():
    layer = layers.ConditionalBatchNorm2d(5, num_classes=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 5, 4, 4).bfloat16(), torch.tensor([0, 1])).dtype == torch.bfloat16


def test_conditional_batch_norm_survives_the_conversion_to_sync_batch_norm():
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(perturb(build(dcgan.Generator, num_classes=3))).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in layer.modules())
    z, condition = inputs(layer)
    assert not torch.equal(layer(z, condition), layer(z, (condition + 1) % 3))


def test_the_projection_head_is_its_formula():
    head, h, y = layers.ProjectionHead(6, num_classes=3), torch.randn(4, 6), torch.tensor([2, 0, 1, 2])
    weight, bias, embed = (p.detach().numpy() for p in (head.psi.weight, head.psi.bias, head.embed.weight))
    expected = [weight[0] @ h[i].numpy() + bias[0] + embed[y[i]] @ h[i].numpy() for i in range(4)]
    np.testing.assert_allclose(head(h, y).detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("cls, options", [(resnet.Discriminator, {}), (dcgan.Discriminator, {"batch_norm": False})])
def test_spectral_norm_holds_every_layer_at_a_largest_singular_value_of_one(cls, options):
    discriminator = perturb(build(cls, num_classes=3, spectral_norm=True, **options))
    for _ in range(200):
        discriminator(*inputs(discriminator))
    weighted = [m for m in discriminator.modules() if hasattr(m, "weight") and not isinstance(m, nn.ModuleDict)]
    assert len(weighted) >= 4
    for module in weighted:
        assert parametrize.is_parametrized(module, "weight")
        norm = torch.linalg.matrix_norm(module.eval().weight.flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, abs=0.02)


def test_the_critic_of_wgan_gp_has_no_normalization():
    critic = build(resnet.Discriminator, num_classes=3, spectral_norm=False)
    kinds = {type(module).__name__ for module in critic.modules()}
    assert not any("Norm" in kind or "Parametrized" in kind for kind in kinds)


def test_the_residual_discriminator_sums_over_the_grid():
    discriminator = build(resnet.Discriminator, (8, 8)).eval()
    x, _ = inputs(discriminator)
    h = F.relu(discriminator.blocks(x)).flatten(2).sum(2)
    torch.testing.assert_close(discriminator(x), discriminator.head(h), rtol=1e-4, atol=1e-5)


def test_residual_blocks_are_those_of_the_paper_in_its_order():
    """Up-sample, then 1x1 convolution; 1x1 convolution, then average: ours are in the cheaper order."""
    x = torch.randn(2, 8, 6, 4)
    up = perturb(resnet.UpBlock(8, 6, layers.ConditionalBatchNorm2d))
    h = up.conv2(F.relu(up.norm2(up.conv1(nn.Upsample(scale_factor=2)(F.relu(up.norm1(x)))))))
    torch.testing.assert_close(up(x, None), h + up.shortcut(nn.Upsample(scale_factor=2)(x)), rtol=1e-4, atol=1e-4)
    for first in (True, False):
        down = perturb(resnet.DiscriminatorBlock(8, 8, down=True, first=first))
        h = down.conv2(F.relu(down.conv1(x if first else F.relu(x))))
        expected = F.avg_pool2d(h, 2) + F.avg_pool2d(down.shortcut(x), 2)
        torch.testing.assert_close(down(x), expected, rtol=1e-4, atol=1e-4)
    for num_outputs in (8, 6):
        plain = resnet.DiscriminatorBlock(8, num_outputs, down=False)
        expected = plain.shortcut(x) + plain.conv2(F.relu(plain.conv1(F.relu(x))))
        torch.testing.assert_close(plain(x), expected)
        assert isinstance(plain.shortcut, nn.Identity if num_outputs == 8 else nn.Conv2d)


@families
@players
def test_no_layer_writes_into_its_input(family, player):
    """An activation in place would turn the shortcut of a residual block from x into relu(x)."""
    network, before = build(getattr(family, player)), {}
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue  # has none
        module.register_forward_pre_hook(lambda m, given: before.update({m: given[0].clone()}))
        module.register_forward_hook(lambda m, given, out: before.update({m: torch.equal(before[m], given[0])}))
    with torch.no_grad():
        network(inputs(network)[0])
    assert len(before) > 3 and all(before.values())


@pytest.mark.parametrize("player", [f.Generator for f in FAMILIES] + [f.Discriminator for f in FAMILIES])
def test_residual_blocks_are_the_residual_and_the_shortcut(player):
    """Without its last convolution a block is its shortcut alone, which is affine: f(x) + f(-x) = 2 f(0)."""
    given = {}
    network = perturb(build(player)).eval()
    blocks = [module for module in network.modules() if hasattr(module, "shortcut")]
    blocks = [block for block in blocks if not isinstance(block, stylegan2.DownBlock)]  # it ends in an activation
    for block in blocks:
        block.register_forward_pre_hook(lambda m, arguments: given.update({m: arguments}))
    with torch.no_grad():
        network(inputs(network)[0])
        for block in blocks:
            x, *rest = given[block]
            residual = []
            handle = block.conv2.register_forward_hook(lambda m, _, out, seen=residual: seen.append(out))
            whole = block(x, *rest)
            handle.remove()
            block.conv2.register_forward_hook(lambda m, _, out: 0 * out)
            at_x, at_minus_x, at_0 = (block(t, *rest) for t in (x, -x, 0 * x))
            torch.testing.assert_close(at_x + at_minus_x, 2 * at_0, rtol=1e-4, atol=1e-5)
            pool = getattr(block, "pool", nn.Identity())
            torch.testing.assert_close(whole, pool(residual[0]) + at_x, rtol=1e-4, atol=1e-5)
    assert blocks or player not in (resnet.Generator, resnet.Discriminator, biggan.Generator, biggan.Discriminator)


def test_dense_layers_between_the_convolutions_and_the_logit():
    network = perturb(dcgan.Discriminator((28, 28), 1, width=4, num_blocks=2, batch_norm=False, hidden=(5, 3)))
    first, _, second, _ = network.hidden
    assert (first.in_features, second.in_features, network.head.psi.in_features) == (8 * 7 * 7, 5, 3)
    x = torch.randn(2, 1, 28, 28)
    h = F.leaky_relu(first(network.features(x).flatten(1)), 0.2)
    expected = network.head.psi(F.leaky_relu(second(h), 0.2)).squeeze(1)
    torch.testing.assert_close(network(x), expected)


def test_nearest_up_sampling_and_a_convolution_are_one_transposed_convolution():
    layer = dcgan.NearestConv2d(3, 5)
    x = torch.randn(2, 3, 4, 6)
    expected = F.conv2d(layers.upsample(x), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_nearest_up_sampling_starts_without_a_checkerboard():
    """Of a map that is the same everywhere, transposed convolutions make a pattern of 2x2 pixels."""
    x = torch.ones(1, 8, 4, 4)
    spread = {}
    for upsampling in ("transposed", "nearest"):
        generator = dcgan.Generator((16, 16), 3, width=8, upsampling=upsampling)
        spread[upsampling] = generator.upsamplings[-1](x)[..., 1:-1, 1:-1].std((2, 3)).max().item()
    assert spread["nearest"] < 1e-6 < 1e-3 < spread["transposed"]


def test_self_modulation_is_a_gain_and_a_bias_by_the_latent():
    options = {"image_size": (8, 8), "channels": 3, "num_classes": 2, "latent_dim": 6, "width": 4}
    generator = perturb(dcgan.Generator(**options, self_modulation=True)).eval()
    z, labels = torch.randn(5, 6), torch.arange(5) % 2
    h = generator.norms[0](generator.linear(z).unflatten(1, generator.grid), labels)
    gain, bias = generator.modulations[0](z).chunk(2, dim=1)
    expected = generator.upsamplings[0](F.relu((1 + gain)[..., None, None] * h + bias[..., None, None])).tanh()
    torch.testing.assert_close(generator(z, labels), expected)

    plain = dcgan.Generator(**options)
    for modulation in generator.modulations:
        for parameter in modulation.parameters():
            parameter.data.zero_()
    plain.load_state_dict({name: value for name, value in generator.state_dict().items() if "modul" not in name})
    torch.testing.assert_close(generator(z, labels), plain.eval()(z, labels))


def test_weights_by_their_inputs_keep_the_activations_of_a_discriminator_without_batch_norm():
    x = torch.randn(16, 3, 32, 32)
    for initialization, least, most in [("published", 0.0, 0.05), ("by_inputs", 0.5, 2.0)]:
        network = dcgan.Discriminator((32, 32), 3, width=32, batch_norm=False, initialization=initialization)
        assert least < network.features(x).square().mean().sqrt().item() < most, initialization


def test_dcgan_starts_from_its_published_distribution():
    for network in (dcgan.Generator((32, 32), 3, width=16), dcgan.Discriminator((32, 32), 3, 5, width=16)):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
            else:
                mean = 1 if "norm" in name or parameter.dim() == 1 else 0
                assert parameter.mean().item() == pytest.approx(mean, abs=0.02), name
                assert parameter.std().item() == pytest.approx(0.02, rel=0.4), name


def test_resnet_convolutions_start_from_xavier_with_gain_sqrt_2_in_branches_and_1_in_shortcuts():
    for block in (resnet.UpBlock(32, 32, layers.ConditionalBatchNorm2d), resnet.DiscriminatorBlock(32, 32, down=True)):
        for conv, gain, size in [(block.conv1, 2**0.5, 9), (block.conv2, 2**0.5, 9), (block.shortcut, 1, 1)]:
            assert conv.weight.std().item() == pytest.approx(gain * (2 / (2 * 32 * size)) ** 0.5, rel=0.1)
