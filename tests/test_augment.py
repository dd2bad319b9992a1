"""Augmentations."""

import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer

from src.images.augment import Adaptive, Augmentation, Color, Cutout, InstanceNoise, Masking, Premultiply, Translation
from src.objectives.losses import Hinge, LeastSquares, RelativisticPairing, Wasserstein, Weighted

IMAGES = torch.rand(512, 3, 9, 12, generator=torch.manual_seed(0)) * 2 - 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


@pytest.mark.parametrize("augmentation", [Color(), Translation(), Cutout(), Masking(), Adaptive([Color(), Cutout()])])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentations_keep_the_shape_and_pass_gradients_back(augmentation, channels):
    if isinstance(augmentation, Adaptive):
        augmentation.strength.fill_(0.5)
    images = IMAGES[:, :channels].clone().requires_grad_(True)
    result = augmentation(images)
    assert result.shape == images.shape and not torch.equal(result, images)
    result.sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0


def test_color_is_an_affine_map_of_each_image_in_the_published_ranges():
    """x -> mean + b + c (grey - mean + s (x - grey)), with b in +-0.5, s in 0 to 2, c in 0.5 to 1.5."""
    result = Color()(IMAGES)
    mean, new_mean = (x.mean((1, 2, 3), keepdim=True) for x in (IMAGES, result))
    grey, new_grey = (x.mean(1, keepdim=True) for x in (IMAGES, result))
    contrast = ((new_grey - new_mean) / (grey - mean)).flatten(1).median(1).values[:, None, None, None]
    both = ((result - new_grey) / (IMAGES - grey)).flatten(1).median(1).values[:, None, None, None]
    torch.testing.assert_close(result, new_mean + contrast * (grey - mean) + both * (IMAGES - grey), rtol=0, atol=1e-3)
    for values, low, high in ((new_mean - mean, -0.5, 0.5), (contrast, 0.5, 1.5), (both / contrast, 0, 2)):
        assert low - 1e-3 < values.min() < low + 0.05 and high - 0.05 < values.max() < high + 1e-3


def test_color_leaves_alpha_alone_and_out_of_the_colours():
    expected, alpha = Color()(IMAGES), torch.rand(len(IMAGES), 1, 9, 12)
    torch.manual_seed(0)
    assert torch.equal(Color()(torch.cat([IMAGES, alpha], 1)), torch.cat([expected, alpha], 1))


def test_premultiplied_colours_count_as_much_as_they_are_seen():
    colors, alpha = IMAGES, torch.full((len(IMAGES), 1, 9, 12), -1.0)
    images = torch.cat([colors, alpha], 1).requires_grad_(True)
    seen = Premultiply()(images)
    assert torch.equal(seen[:, 3:], alpha) and not seen[:, :3].any()
    seen.square().sum().backward()
    assert not images.grad[:, :3].any()  # nobody asks the generator for colours that are not seen
    for opaque in (torch.cat([colors, -alpha], 1), colors, colors[:, :1]):
        assert torch.equal(Premultiply()(opaque), opaque)
    half = Premultiply()(torch.cat([colors, 0 * alpha], 1))
    torch.testing.assert_close(half[:, :3], colors / 2)


def test_translation_shifts_by_whole_pixels_and_fills_with_zeros():
    """Each image is one of the shifts written out, every shift occurs, and equally often on the average."""
    down, right = 2, 3  # a quarter of 9 and of 12
    result, found = Translation(0.25)(IMAGES), torch.zeros(len(IMAGES))
    counts = []
    for i in range(-down, down + 1):
        for j in range(-right, right + 1):
            shifted = torch.zeros_like(IMAGES)
            there = (slice(None), slice(None), slice(max(i, 0), 9 + min(i, 0)), slice(max(j, 0), 12 + min(j, 0)))
            here = (slice(None), slice(None), slice(max(-i, 0), 9 + min(-i, 0)), slice(max(-j, 0), 12 + min(-j, 0)))
            shifted[there] = IMAGES[here]
            equal = (result == shifted).flatten(1).all(1)
            found += equal
            counts.append(equal.sum().item())
    assert found.eq(1).all() and len(counts) == 35
    assert min(counts) > 0 and max(counts) < 40  # 512 / 35 = 14.6 expected


def test_masking_hides_pixels_of_all_channels_with_a_probability_of_each_image():
    """Uniform from 0 to the share: the hidden parts of images have its mean and deviation, and the rest stays."""
    images = torch.ones(2000, 2, 16, 16)
    result = Masking(0.6)(images)
    assert ((result == 0) | (result == 1)).all() and torch.equal(result[:, 0], result[:, 1])
    hidden = 1 - result[:, 0].mean((1, 2))
    assert hidden.mean().item() == pytest.approx(0.3, abs=0.02)
    assert hidden.std().item() == pytest.approx(0.6 / 12**0.5, abs=0.02)
    assert torch.equal(Masking(0.0)(images), images)
    with pytest.raises(ValueError, match="share of Masking must be in"):
        Masking(1.1)


def test_cutout_leaves_a_rectangle_of_zeros_that_reaches_every_border():
    result = Cutout(0.5)(IMAGES)
    removed = (result != IMAGES).any(1)
    assert torch.equal(result, IMAGES * ~removed[:, None])
    rows, columns = removed.any(2), removed.any(1)
    assert torch.equal(removed, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() == 5 and columns.sum(1).max() == 6  # half of 9, rounded up, and of 12
    assert rows.sum(1).min() == 3 and columns.sum(1).min() == 3  # the centre lies on the border
    for covered in (rows, columns):
        for border in (0, -1):
            assert covered[:, border][covered.sum(1) == 3].any()
    assert ((rows[:, 1:] != rows[:, :-1]).sum(1) <= 2).all() and ((columns[:, 1:] != columns[:, :-1]).sum(1) <= 2).all()


@pytest.mark.parametrize("part", [Translation, Cutout])
@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_ratios_out_of_range_are_refused(part, ratio):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        part(ratio)


class Negative(Augmentation):
    def forward(self, images):
        return -images


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_an_adaptive_augmentation_hits_each_image_whole_with_its_probability(strength):
    adaptive = Adaptive([Negative()])
    adaptive.strength.fill_(strength)
    result = adaptive(IMAGES)
    hit = (result == -IMAGES).flatten(1).all(1)
    assert (hit | (result == IMAGES).flatten(1).all(1)).all()
    assert hit.float().mean().item() == pytest.approx(strength, abs=0.07)


def test_the_strength_follows_the_sign_of_the_real_logits():
    """Every 4 steps by the share of `images` that was seen, up above the target and down below; Sec. 3 of ADA."""
    adaptive = Adaptive([Negative()], target=0.5, images=1000, limit=0.25)
    history = []
    for step in range(21):
        adaptive.advance(step)
        history.append(round(adaptive.strength.item(), 5))
        # Of 20 logits, 18 positive: mean sign 0.8; from step 12 on 14: mean sign 0.4, however large they are.
        positive = 18 if step < 12 else 14
        adaptive.observe(torch.where(torch.arange(20) < positive, 3.0, -100.0))
    assert history == [0.0] * 4 + [0.08] * 4 + [0.16] * 4 + [0.24] * 4 + [0.16] * 4 + [0.08]
    for step in range(24, 41):
        adaptive.advance(step)
        adaptive.observe(torch.full((20,), 0.1 if step < 36 else -0.1))
    assert adaptive.strength.item() == pytest.approx(0.25 - 0.08)
    for step in range(44, 60):
        adaptive.advance(step)
        adaptive.observe(torch.full((20,), -0.1))
    assert adaptive.strength == 0
    adaptive.observe(torch.full((1000,), torch.nan))  # a step that `on_nonfinite` leaves out
    adaptive.advance(60)
    assert adaptive.strength == 0


def test_an_adaptive_augmentation_resumes_bitwise(tmp_path):
    def gan():
        return make_gan(augment=[Adaptive([Color(), InstanceNoise(0.5, 10)], images=200)])

    whole = fit(tmp_path, gan(), max_steps=14)
    trainer = make_trainer(tmp_path, max_steps=6)
    trainer.fit(gan(), datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = gan()
    make_trainer(tmp_path, max_steps=14).fit(resumed, datamodule=Squares(), ckpt_path=tmp_path / "half.ckpt")
    assert 0 < whole.augment[0].strength < 1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@pytest.mark.parametrize("loss", [Wasserstein(), LeastSquares(), Weighted(RelativisticPairing())])
def test_adaptive_needs_logits_with_a_meaning(loss):
    with pytest.raises(ValueError, match=f"mean nothing to {type(loss).__name__}"):
        make_gan(loss=loss, augment=[Adaptive([Negative()])])
    make_gan(loss=Weighted(Hinge()), augment=[Adaptive([Negative()])])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"augmentations": []}, "list at least one"), ({"target": 2.0}, "target in"), ({"limit": -0.1}, "limit in")],
)
def test_adaptive_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(**({"augmentations": [Negative()]} | options))
