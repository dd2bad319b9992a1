"""SAGAN and BigGAN: published sizes, attention against its formula, what enters where."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from src.networks import biggan

# Parameters measured on the networks of POSTECH-CVLab/PyTorch-StudioGAN and ajbrock/BigGAN-PyTorch:
# size, classes, options of G, options of D, parameters of G, of D.
SAGAN = {"latent_dim": 128, "width": 64, "shared_dim": 0, "hierarchical": False}
AT_32 = {"num_down": 2, "num_plain": 2}
PUBLISHED = {
    "sagan-32": (32, 10, SAGAN, {"width": 64} | AT_32, 4_386_308, 1_075_586),
    "sagan-32-unconditional": (32, 0, SAGAN, {"width": 64} | AT_32, 4_358_660, 1_074_306),
    "sagan-64": (64, 100, SAGAN, {"width": 64}, 12_811_396, 19_650_242),
    "sagan-128": (128, 1000, SAGAN, {"width": 64}, 42_017_412, 39_448_258),
    "sagan-32-tiny": (32, 10, SAGAN | {"latent_dim": 16, "width": 8}, {"width": 8} | AT_32, 73_412, 17_522),
    "biggan-32": (32, 10, {}, AT_32, 9_416_196, 2_415_170),
    "biggan-32-unconditional": (32, 0, {}, AT_32, 8_825_092, 2_413_250),
    "biggan-32-ajbrock": (
        32, 10, SAGAN | {"attention": None}, {"width": 128, "attention": None} | AT_32, 4_304_387, 4_207_361,
    ),
    "biggan-64": (64, 100, {"latent_dim": 100, "width": 80}, {"width": 80}, 17_322_404, 30_668_722),
    "biggan-128": (128, 1000, {"latent_dim": 120}, {}, 70_433_988, 87_982_370),
    "biggan-32-tiny": (
        32, 10, {"latent_dim": 16, "width": 8, "shared_dim": 8}, {"width": 8} | AT_32, 68_116, 17_522,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    size, num_classes, of_generator, of_discriminator, *published = PUBLISHED[name]
    with torch.device("meta"):  # without spectral norm, which adds none and takes long there
        facts = ((size, size), 3, num_classes)
        generator = biggan.Generator(*facts, **of_generator, spectral_norm=False)
        discriminator = biggan.Discriminator(*facts, **of_discriminator, spectral_norm=False)
    # The published up blocks have biases that batch normalization takes away again; ours leave them out.
    convolutions = [c for block in generator.blocks for c in block.modules() if isinstance(c, nn.Conv2d)]
    assert all(c.bias is None for c in convolutions)
    without_effect = sum(c.out_channels for c in convolutions)
    assert [count(generator) + without_effect, count(discriminator)] == published


@pytest.mark.parametrize("width", [48, 128, 192, 256])
def test_attention_has_its_published_size_and_starts_as_the_identity(width):
    layer, x = biggan.SelfAttention(width), torch.randn(2, width, 4, 6)
    assert count(layer) == 1.25 * width**2 + 1
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5), (1, 1)])
def test_attention_is_its_formula(height, width):
    layer, x = biggan.SelfAttention(16).double(), torch.randn(2, 16, height, width, dtype=torch.float64)
    nn.init.constant_(layer.gamma, 0.7)
    maps = {name: m.weight.detach().numpy()[:, :, 0, 0] for name, m in layer.named_children()}
    for image, out in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        key, value = (np.tensordot(maps[name], image, 1) for name in ("key", "value"))
        blocks = [(slice(i, i + 2), slice(j, j + 2)) for i in range(0, height, 2) for j in range(0, width, 2)]
        key, value = (np.stack([h[:, i, j].max((1, 2)) for i, j in blocks]) for h in (key, value))
        for i in range(height):
            for j in range(width):
                weights = np.exp(key @ (maps["query"] @ image[:, i, j]))
                attended = maps["out"] @ (weights @ value / weights.sum())
                np.testing.assert_allclose(out[:, i, j], image[:, i, j] + 0.7 * attended)


def test_attention_is_twice_differentiable():
    layer = biggan.SelfAttention(8).double()
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(1, 8, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)


def test_the_softmax_of_attention_stays_in_float32_under_autocast(monkeypatch):
    seen, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda t, dim: seen.append(t.dtype) or softmax(t, dim))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        biggan.SelfAttention(8)(torch.randn(2, 8, 4, 4, dtype=torch.bfloat16))
    assert seen == [torch.float32]


@pytest.mark.parametrize("cls", [biggan.Generator, biggan.Discriminator])
def test_attention_sits_at_the_feature_map_that_it_is_told(cls):
    for attention in (1, 2, 3):
        network, sizes = cls((32, 48), 3, width=4, attention=attention), []
        next(m for m in network.modules() if isinstance(m, biggan.SelfAttention)).register_forward_hook(
            lambda module, given, out, sizes=sizes: sizes.append(tuple(out.shape[2:]))
        )
        network(torch.randn(2, 80) if cls is biggan.Generator else torch.randn(2, 3, 32, 48))
        assert sizes == [(32 // 2**attention, 48 // 2**attention)]
    assert not any(isinstance(m, biggan.SelfAttention) for m in cls((32, 48), 3, width=4, attention=None).modules())
    with pytest.raises(ValueError, match="attention must be 1 to 3"):
        cls((32, 48), 3, width=4, attention=4)


def test_each_part_of_the_latent_enters_at_its_own_place():
    """Part 0 makes the grid; part i only reaches the gains and biases of block i."""
    network = biggan.Generator((32, 32), 3, 5, latent_dim=10, width=4, shared_dim=6).eval()
    assert network.parts == [3, 3, 2, 2]
    seen = {}
    for i, block in enumerate(network.blocks):
        block.norm1.register_forward_pre_hook(lambda module, given, i=i: seen.update({i: given}))
    z, labels = torch.randn(2, 10), torch.tensor([4, 1])
    network(z, labels)
    for i, (first, last) in enumerate([(3, 6), (6, 8), (8, 10)]):
        torch.testing.assert_close(seen[i][1], torch.cat([network.shared.weight[labels], z[:, first:last]], 1))
    torch.testing.assert_close(seen[0][0], network.linear(z[:, :3]).view(2, 16, 4, 4))


def test_sagan_reads_labels_as_one_hot_vectors_and_its_latent_whole():
    network = biggan.Generator((16, 16), 3, 5, latent_dim=10, width=4, shared_dim=0, hierarchical=False).eval()
    network.blocks[0].norm1.register_forward_pre_hook(lambda module, given: seen.append(given))
    seen: list = []
    z = torch.randn(2, 10)
    network(z, torch.tensor([4, 1]))
    assert seen[0][1].tolist() == [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]
    torch.testing.assert_close(seen[0][0], network.linear(z).view(2, 16, 4, 4))


def test_gain_and_bias_are_linear_in_the_vector_around_one_and_zero():
    layer = biggan.VectorBatchNorm2d(5, 3)
    x, vector = 2 + 3 * torch.randn(4, 5, 6, 7), torch.randn(4, 3)
    normalized = nn.BatchNorm2d(5)(x)
    gain, bias = (vector @ m.weight.T for m in (layer.gain, layer.bias))
    torch.testing.assert_close(layer(x, vector), (1 + gain)[:, :, None, None] * normalized + bias[:, :, None, None])
    torch.testing.assert_close(layer(x, torch.zeros(4, 3)), normalized)
    torch.testing.assert_close(biggan.VectorBatchNorm2d(5, 0)(x, torch.zeros(4, 0)), normalized)


def test_weights_start_orthogonal_and_the_shared_embedding_has_no_spectral_norm():
    network = biggan.Generator((16, 16), 3, 5, latent_dim=12, width=4, shared_dim=8)
    assert not parametrize.is_parametrized(network.shared)
    torch.testing.assert_close(network.shared.weight @ network.shared.weight.T, torch.eye(5))
    for module in [*network.blocks.modules(), network.linear, network.to_pixels]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert parametrize.is_parametrized(module, "weight")
            rows = module.parametrizations.weight.original.flatten(1)
            gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)


def test_a_latent_too_short_for_the_blocks_is_refused_and_fits_whole():
    with pytest.raises(ValueError, match="cannot be cut into 4 parts: set latent_dim to 4 or more, or hierarchical to"):
        biggan.Generator((32, 32), 3, latent_dim=3, width=4)
    biggan.Generator((32, 32), 3, latent_dim=3, width=4, hierarchical=False)


def test_widths_from_256_pixels_on():
    assert biggan.widths_of(96, 6, small=4) == [96, 192, 384, 768, 768, 1536, 1536]
    assert biggan.widths_of(2, 7, small=4) == [2, 4, 8, 16, 32, 32, 32, 32]
