"""Networks of one set of weights for all sizes."""

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, make_gan
from PIL import Image
from scipy.spatial.distance import cdist

from src.cli import load, main
from src.images.measurements import MissingPixels
from src.networks import fully_convolutional


def build(image_size=(16, 16), **options):
    torch.manual_seed(0)
    options = {"width": 4, "num_blocks": 2} | options
    generator = fully_convolutional.Generator(image_size, 3, latent_dim=5, **options).eval()
    return generator, fully_convolutional.Discriminator(image_size, 3, **options).eval()


@pytest.mark.parametrize("num_classes", [0, 3])
def test_weights_fit_every_size_and_moved_noise_gives_moved_images(num_classes):
    """Away from the border, where padding is seen."""
    (small, judge), (large, _) = build((32, 32), num_classes=num_classes), build((64, 96), num_classes=num_classes)
    large.load_state_dict(small.state_dict())
    z = torch.randn(2, *large.latent_shape)
    labels = torch.tensor([0, 1]) if num_classes else None
    image = large(z, labels)
    assert image.shape == (2, 3, 64, 96) == (2, *large.output_shape)
    window = small(z[:, :, 4:12, 8:16], labels)  # 4 pixels a row of the noise
    torch.testing.assert_close(window[..., 12:20, 12:20], image[..., 28:36, 44:52])
    assert not torch.allclose(window[..., :8, :8], image[..., 16:24, 32:40])
    assert judge(image, labels).shape == (2,)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_logit_is_the_mean_of_logits_of_patches(num_classes):
    _, judge = build((32, 48), num_classes=num_classes)
    labels = torch.tensor([0, 2]) if num_classes else None
    x = torch.randn(2, 3, 32, 48)
    logits = judge.patch_logits(x, labels)
    assert logits.shape == (2, 8, 12)
    torch.testing.assert_close(judge(x, labels), logits.mean((1, 2)))
    x[..., -1, -1] += 10
    changed = judge.patch_logits(x, labels) != logits
    assert changed[:, -1, -1].all() and not changed[:, :-3, :].any() and not changed[:, :, :-3].any()


def test_published_widths():
    generator = fully_convolutional.Generator((32, 32), 3, num_blocks=4)
    assert [norm.norm.num_features for norm in generator.norms] == [1024, 512, 256, 128, 64]
    judge = fully_convolutional.Discriminator((32, 32), 3, num_blocks=4)
    convolutions = [m for m in judge.features if isinstance(m, torch.nn.Conv2d)]
    assert [convolution.out_channels for convolution in convolutions] == [64, 128, 256, 512, 1024]


def test_one_noise_vector_makes_and_one_logit_judges_a_square_of_the_grid():
    """28x28 is 7 times two doublings: all of it depends on one vector, and beside it lie images of other vectors."""
    generator, judge = build((28, 28), grid=7)
    assert generator.latent_shape == (5, 1, 1) and judge.patch_logits(torch.zeros(1, 3, 28, 28)).shape == (1, 1, 1)
    larger = fully_convolutional.Generator((56, 28), 3, latent_dim=5, width=4, num_blocks=2, grid=7).eval()
    larger.load_state_dict(generator.state_dict())
    z = torch.randn(1, *larger.latent_shape)
    both, first = larger(z), generator(z[:, :, :1])
    torch.testing.assert_close(both[:, :, :24], first[:, :, :24])  # before the border between the two
    x = torch.randn(1, 3, 28, 28)
    corners = x.clone()
    corners[..., ::27, ::27] += 1
    assert judge(x) != judge(corners)
    with pytest.raises(ValueError, match="grid 4 does not divide the feature map of 7x7"):
        build((28, 28), grid=4)


def test_the_discriminator_is_shown_which_pixels_are_hidden():
    """What is hidden has no gradient; the mask counts, and so does what hidden pixels are filled in with."""
    judge = fully_convolutional.Discriminator((16, 16), 3, width=4, num_blocks=2, mask=True)
    x = torch.rand(2, 3, 16, 16) + 0.1
    x[:, :, 4:8] = 0
    x.requires_grad_(True)
    judge(x).sum().backward()
    assert (x.grad[:, :, 4:8] == 0).all() and (x.grad[:, :, :4] != 0).all()
    with torch.no_grad():
        before = judge(x)
        for channels in ([3], [4, 5, 6]):  # the mask; the filled-in image
            judge.features[0].weight[:, channels] = 0
            assert not torch.equal(judge(x), before)
            before = judge(x)


def test_hidden_pixels_are_filled_in_by_inverse_distances():
    """By the distances of scipy; what is seen stays, and where nothing is seen there is nothing."""
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64) + 0.1
    x *= torch.rand(2, 1, 6, 5) < 0.5
    shown, seen, filled = fully_convolutional.with_surroundings(x).split([3, 1, 3], 1)
    assert torch.equal(shown, x) and torch.equal(seen[:, 0], (x[:, 0] != 0).double())
    places = np.argwhere(np.ones((6, 5)))
    for i in range(2):
        here = seen[i, 0].flatten().numpy() > 0
        weights = cdist(places[~here], places[here]) ** -3.0
        expected = x[i].flatten(1).numpy().copy()
        expected[:, ~here] = (weights @ expected[:, here].T / weights.sum(1, keepdims=True)).T
        np.testing.assert_allclose(filled[i].flatten(1).numpy(), expected, atol=1e-9)
    assert (fully_convolutional.with_surroundings(torch.zeros(1, 1, 4, 4)) == 0).all()


def test_a_mask_of_another_level_is_refused():
    judge = fully_convolutional.Discriminator((4, 4), 1, width=4, num_blocks=1, mask=True)
    make_gan(discriminator=judge, measurement=MissingPixels(0.5))
    with pytest.raises(ValueError, match="set its level to 0, or mask to false"):
        make_gan(discriminator=judge, measurement=MissingPixels(0.5, level=-1.0))


def test_without_normalization_logits_begin_with_a_size_of_their_own():
    """Through four layers of N(0, 0.02) what passes would be 1/100 of its size."""
    x = torch.randn(50, 3, 32, 32)
    logits = [fully_convolutional.Discriminator((32, 32), 3, width=16, num_blocks=3)(x) for _ in range(3)]
    assert all(0.02 < of.square().mean().sqrt() < 5 for of in logits)


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of two steps on digits, with an encoder, whose weights serve all sizes as well."""
    quick = {
        "trainer": {"max_steps": 2, "logger": False, "callbacks": None},
        "data": {"init_args": {"batch_size": 8, "labels": False}},
    }
    quick["trainer"]["callbacks"] = [{"class_path": "src.callbacks.checkpoints.LastCheckpoint"}]
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(quick))
    configs = [ROOT / "configs" / name for name in ("systems/igm_digits.yaml", "overlays/igm_with_encoder.yaml")]
    options = [word for config in [*configs, tmp_path / "quick.yaml"] for word in ("--config", str(config))]
    main(["fit", *options, "--run_dir", str(tmp_path / "run")])
    return str(tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_a_checkpoint_is_sampled_at_another_size(trained, tmp_path):
    main(["predict", "--ckpt_path", trained, "--data.image_size", "[16,24]", "--num_images", "3", "--output",
          str(tmp_path / "out")])  # fmt: skip
    files = sorted((tmp_path / "out" / "images").rglob("*.png"))
    assert [Image.open(file).size for file in files] == [(24, 16)] * 3
    gan, same = load(trained, "--data.image_size", "[16,24]"), load(trained)
    assert gan.sample(torch.arange(3)).shape == (3, 1, 16, 24)
    for name, value in gan.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


def test_sizes_that_the_blocks_do_not_divide_are_refused():
    for network in (fully_convolutional.Generator, fully_convolutional.Discriminator):
        with pytest.raises(ValueError, match="not a multiple of 8"):
            network((12, 16), 3, num_blocks=3)
