"""ADA's pipeline: check values of the published code, laws of what it draws, derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import fit, make_gan
from scipy.stats import kstest

from src.images import ada
from src.images.ada import AdaptivePipeline, Pipeline
from src.networks.biggan import Discriminator
from src.objectives.losses import Wasserstein
from src.objectives.regularizers import input_gradient

IMAGES = torch.rand(16, 3, 9, 12, generator=torch.manual_seed(0)) * 2 - 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def one(value):
    return torch.tensor([value], dtype=torch.float64)


# Geometry


@pytest.mark.parametrize(
    ("inverse", "place", "value"),
    [
        (ada.scaling(one(-1), one(1)), (5, 22), 0.9646),
        (ada.rotation(one(-math.pi / 2)), (9, 26), 0.9646),  # three quarter turns
        (ada.translation(one(-2), one(-2)), (7, 11), 1.0),
    ],
)
def test_a_pixel_moves_as_in_the_published_code(inverse, place, value):
    images = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    images[0, 0, 5, 9] = 1
    result = ada.warped(images, inverse)[0, 0]
    assert divmod(result.argmax().item(), 32) == place and result.max().item() == pytest.approx(value, abs=5e-5)


def test_without_strength_images_stay_as_they_are():
    torch.testing.assert_close(Pipeline(0.0)(IMAGES), IMAGES, rtol=0, atol=1e-5)
    torch.testing.assert_close(AdaptivePipeline()(IMAGES), IMAGES, rtol=0, atol=1e-5)


def test_whole_pixels_are_shifted_exactly_and_mirrored_beyond_the_border():
    shift = ada.translation(torch.full((16,), -1.0), torch.full((16,), 2.0))
    expected = F.pad(IMAGES, (1, 0, 0, 2), mode="reflect")[:, :, 2:, :12]
    torch.testing.assert_close(ada.warped(IMAGES, shift), expected, rtol=0, atol=1e-5)


def test_a_smooth_image_is_turned_stretched_and_shifted_where_it_should():
    """Against the function of the plane that the image is taken from."""

    def wave(x, y):
        return torch.sin(0.3 * x + 0.1) * torch.cos(0.2 * y)

    x, y = torch.arange(64.0) - 31.5, torch.arange(48.0)[:, None] - 23.5
    angle, stretch, move = 0.5, 1.2, 3.3
    inverse = (
        ada.rotation(one(angle)) @ ada.scaling(one(stretch), one(1 / stretch)) @ ada.translation(one(move), one(-move))
    )
    result = ada.warped(wave(x, y)[None, None].double(), inverse)[0, 0]
    u, v = stretch * (x + move), (y - move) / stretch
    expected = wave(math.cos(angle) * u - math.sin(angle) * v, math.sin(angle) * u + math.cos(angle) * v).double()
    inside = (slice(16, 32), slice(20, 44))
    torch.testing.assert_close(result[inside], expected[inside], rtol=0, atol=0.06)


def test_bilinear_values_are_those_of_grid_sample():
    x, y = torch.rand(2, 16, 5, 7) * 20 - 4
    grid = torch.stack([(2 * x + 1) / 12 - 1, (2 * y + 1) / 9 - 1], 3)
    torch.testing.assert_close(ada.sampled(IMAGES, x, y), F.grid_sample(IMAGES, grid, align_corners=False))


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="cannot warp images of 3x8: set its moves and geometry to 0"):
        Pipeline(0.5)(torch.zeros(2, 1, 3, 8))
    Pipeline(0.5, moves=0.0, geometry=0.0)(torch.zeros(2, 1, 3, 8))


# Colours

COLOR = one([[0.5, -0.25, 0.1]]).view(1, 3, 1, 1)
DEVIATION = 0.4769


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (ada.gains(one(-1), one(1)), (0.26667, -0.48333, -0.13333)),
        (ada.hue(one(math.pi / 2)), (0.31874, 0.34761, -0.31635)),
        (ada.hue(one(-math.pi / 2)), (-0.08541, -0.11427, 0.54968)),
        (ada.gains(one(2 ** (0.5 * DEVIATION)), one(2 ** (0.5 * DEVIATION))), (0.58987, -0.29493, 0.11797)),
        (ada.gains(one(1), one(2**DEVIATION)), (0.65018, -0.39365, 0.09347)),
        (ada.brightness(one(0.2 * DEVIATION)), (0.59539, -0.15461, 0.19539)),
    ],
    ids=["luma flip", "hue", "hue back", "contrast", "saturation", "brightness"],
)
def test_a_color_changes_as_in_the_published_code(matrix, expected):
    assert ada.recolored(COLOR, matrix).flatten().tolist() == pytest.approx(expected, abs=2e-5)


def test_grey_images_see_what_colors_do_to_grey_and_alpha_stays():
    matrices = Pipeline(1.0).color_map(IMAGES, 1.0)
    grey = IMAGES[:, :1]
    colors = ada.recolored(grey.expand(-1, 3, -1, -1), matrices).mean(1, keepdim=True)
    torch.testing.assert_close(ada.recolored(grey, matrices), colors)
    four = torch.cat([IMAGES, grey], 1)
    torch.testing.assert_close(ada.recolored(four, matrices), torch.cat([ada.recolored(IMAGES, matrices), grey], 1))
    two = torch.cat([grey, -grey], 1)
    torch.testing.assert_close(ada.recolored(two, matrices)[:, :1], ada.recolored(grey, matrices))


# Laws


def drawn(strength, **parts):
    """Maps of pixels and of colours of many images of 32x64 pixels."""
    pipeline = Pipeline(strength, **{"moves": 0.0, "geometry": 0.0, "colors": 0.0} | parts)
    images = torch.zeros(1).expand(20000, 3, 32, 64)
    return pipeline.inverse(images, strength), pipeline.color_map(images, strength)


def test_moves_have_their_laws():
    pixels, colors = drawn(0.5, moves=1.0)
    assert torch.equal(colors, torch.eye(4).expand_as(colors))
    turned = pixels[:, :2, :2]
    assert torch.allclose(turned.abs().sort(2).values, torch.tensor([0.0, 1.0]), atol=1e-6)
    assert (turned.det() < 0).float().mean().item() == pytest.approx(0.25, abs=0.01)  # flips
    assert (turned[:, 0, 0].abs() < 0.5).float().mean().item() == pytest.approx(0.25, abs=0.01)  # odd quarter turns
    shifts = pixels[:, :2, 2]
    assert torch.allclose(shifts, shifts.round(), atol=1e-4) and shifts.abs().max() <= 8.001
    assert (shifts.round() != 0).any(1).float().mean().item() == pytest.approx(0.5 * (1 - 1 / 8 / 16), abs=0.015)


def test_geometry_has_its_laws():
    pixels, _ = drawn(1.0, geometry=1.0)
    scale = pixels[:, :2, :2].det().abs().log2() / 2
    assert kstest(scale / 0.2, "norm").pvalue > 1e-3
    singular = torch.linalg.svdvals(pixels[:, :2, :2]).log2()
    assert kstest((singular[:, 0] - singular[:, 1]) / 2 / 0.2, "halfnorm").pvalue > 1e-3
    angle = torch.atan2(pixels[:, 1, 0], pixels[:, 0, 0])
    assert kstest(angle / (2 * math.pi) + 0.5, "uniform").pvalue > 1e-3
    shifts = torch.linalg.solve(pixels[:, :2, :2], pixels[:, :2, 2])
    assert all(kstest(shift / side * 8, "norm").pvalue > 1e-3 for shift, side in zip(shifts.T, (64, 32), strict=True))
    turned = drawn(0.5, geometry=1.0)[0]
    straight = (turned[:, 0, 1].abs() < 1e-6) & (turned[:, 1, 0].abs() < 1e-6)
    assert straight.float().mean().item() == pytest.approx(0.5, abs=0.02)  # neither rotation


def test_colors_have_their_laws():
    pixels, colors = drawn(1.0, colors=1.0)
    assert torch.equal(pixels, torch.eye(3).expand_as(pixels))
    ones = torch.ones(3) / 3**0.5
    contrast = (colors[:, :3, :3] @ ones @ ones).abs()
    assert kstest(contrast.log2() / 0.5, "norm").pvalue > 1e-3
    assert ((colors[:, :3, :3] @ ones @ ones) < 0).float().mean().item() == pytest.approx(0.5, abs=0.015)
    across = colors[:, :3, :3] @ torch.tensor([1.0, -1.0, 0.0]) / 2**0.5
    assert kstest((across.norm(dim=1) / contrast).log2(), "norm").pvalue > 1e-3  # saturation
    other = across @ torch.tensor([1.0, 1.0, -2.0]) / 6**0.5
    turned = torch.atan2(other, across @ torch.tensor([1.0, -1.0, 0.0]) / 2**0.5)
    assert kstest(turned / (2 * math.pi) + 0.5, "uniform").pvalue > 1e-3  # hue
    shift = (colors[:, :3, 3] @ ones) / 3**0.5 / (colors[:, :3, :3] @ ones @ ones)
    assert kstest(shift / 0.2, "norm").pvalue > 1e-3
    half = drawn(0.8, colors=0.5)[1]
    assert (half[:, 0, 3] == 0).float().mean().item() == pytest.approx(0.6, abs=0.015)


# Derivatives and training


def test_every_derivative_is_there_and_right():
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)

    def cubed(images):
        torch.manual_seed(1)
        return Pipeline(1.0)(images).pow(3)

    assert torch.autograd.gradcheck(cubed, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(cubed, images, fast_mode=True)


def test_the_slope_before_augmentation_can_be_minimized():
    discriminator = Discriminator((12, 12), 3, width=4)

    class Both:
        def forward(self, x, condition):
            return discriminator(Pipeline(0.8)(x), condition)

    input_gradient(Both(), torch.randn(4, 3, 12, 12), None).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in discriminator.parameters())
    assert discriminator.blocks[0].conv1.parametrizations.weight.original.grad.abs().max() > 0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_keep_shape_and_dtype_and_autocast_changes_nothing(channels):
    images = torch.rand(8, channels, 9, 12) * 2 - 1
    results = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(Pipeline(0.8)(images))
    assert results[0].shape == images.shape and torch.equal(*results) and not torch.equal(results[0], images)
    assert Pipeline(0.8)(images.bfloat16()).dtype == torch.bfloat16


def test_the_strength_follows_the_discriminator_and_stays_below_its_limit(tmp_path):
    pipeline = AdaptivePipeline(target=-1.0, images=20, limit=0.7)  # below every mean sign: it rises
    gan = fit(tmp_path, make_gan(augment=[pipeline]), max_steps=9)
    assert gan.augment[0].strength.item() == pytest.approx(0.7)
    with pytest.raises(ValueError, match="goes by the signs of logits"):
        make_gan(loss=Wasserstein(), augment=[AdaptivePipeline()])


@pytest.mark.parametrize("name", ["strength", "moves", "geometry", "colors"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} of Pipeline must be in \[0, 1\]"):
        Pipeline(**{name: 1.1})
