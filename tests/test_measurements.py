"""Measurements, of generated images and of those that the data holds; filling in."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer
from scipy import ndimage
from torch import nn

from src.data.images import ImageDataModule
from src.data.inpainting import inpainted
from src.images.measurements import BlurNoise, Mask, MissingPatch, MissingPixels, RandomProjection
from src.networks import base
from src.objectives.losses import NonSaturating, RelativisticPairing

ALL = [MissingPixels(0.5), MissingPatch(0.4), MissingPatch(0.4, keep=True), BlurNoise(), RandomProjection(0.5)]
every_measurement = pytest.mark.parametrize("measurement", ALL, ids=lambda m: type(m).__name__)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@every_measurement
def test_each_image_gets_a_measurement_of_its_own_that_its_stream_decides(measurement):
    images = torch.rand(1, 3, 12, 8).mul(2).sub(1).expand(6, -1, -1, -1)
    measured = measurement(images, stream())
    assert measured.shape == images.shape
    assert torch.equal(measured, measurement(images, stream()))
    assert len({tuple(one.flatten().tolist()) for one in measured}) > 2


@every_measurement
def test_gradients_are_those_of_the_measurement(measurement):
    """All are affine in the image: the derivative along d is f(x + d) - f(x)."""
    x, d, v = torch.randn(3, 2, 1, 8, 6, dtype=torch.float64)
    _, product = torch.autograd.functional.jvp(lambda images: measurement(images, stream()), x, d)
    difference = measurement(x + d, stream()) - measurement(x, stream())
    torch.testing.assert_close(product, difference)
    assert (product * v).abs().sum() > 0


def test_pixels_are_missing_independently_and_in_all_channels():
    images = torch.ones(400, 3, 8, 8)
    seen = MissingPixels(0.8)(images, stream())
    assert ((seen == 0) | (seen == images)).all() and torch.equal(seen[:, 0], seen[:, 2])
    assert seen.mean().item() == pytest.approx(0.2, abs=0.01)
    seen = seen[:, 0].flatten(1)
    correlation = torch.corrcoef(seen.T) - torch.eye(64)
    assert correlation.abs().max() < 0.25  # 5 standard errors


def test_a_missing_patch_is_one_rectangle_anywhere_and_kept_ones_are_what_is_left_of_it():
    images = torch.ones(300, 1, 10, 8)
    missing, kept = (MissingPatch(0.5, keep=keep)(images, stream())[:, 0] for keep in (False, True))
    assert torch.equal(missing + kept, images[:, 0])
    starts = set()
    for patch in kept:
        rows, columns = (patch.amax(axis).nonzero()[:, 0] for axis in (1, 0))
        assert patch.sum() == len(rows) * len(columns) == 5 * 4
        starts.add((rows[0].item(), columns[0].item()))
    assert starts == {(row, column) for row in range(6) for column in range(5)}


@pytest.mark.parametrize("size", [(9, 16), (3, 2)])
def test_blur_is_that_of_scipy_and_noise_has_its_deviation(size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    blurred = BlurNoise(blur=1.0, noise=0.0)(images)
    reference = ndimage.gaussian_filter(images.numpy(), (0, 0, 1, 1), mode="reflect", truncate=4)
    np.testing.assert_allclose(blurred.numpy(), reference, atol=1e-6)
    noise = BlurNoise(noise=0.3)(torch.zeros(200, 1, 16, 16), stream())
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)


def test_a_projection_is_orthogonal_and_spreads_every_image_over_its_subspace():
    projection = RandomProjection(0.3)
    basis = torch.eye(2 * 6 * 4, dtype=torch.float64).view(-1, 1, 2, 6, 4)
    matrix = torch.stack([projection(image, stream()).flatten() for image in basis], dim=1)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-6)
    for image in (torch.ones(2000, 1, 8, 8), torch.zeros(2000, 1, 8, 8).index_fill_(3, torch.tensor(3), 1.0)):
        kept = projection(image, stream()).square().mean() / image.square().mean()
        assert kept.item() == pytest.approx(0.3, abs=0.01)  # trace / dimension


@pytest.mark.parametrize("measurement", [m for m in ALL if isinstance(m, Mask)], ids=lambda m: type(m).__name__)
def test_a_mask_is_found_again_in_what_it_measured(measurement):
    images, others = torch.randint(0, 256, (2, 20, 3, 8, 8)) / 127.5 - 1
    assert torch.equal(measurement.repeat(others, measurement(images, stream())), measurement(others, stream()))


def test_hidden_pixels_have_their_level():
    images = torch.rand(4, 3, 8, 8) - 0.5
    black = MissingPixels(0.5, level=-1.0)(images, stream())
    seen = MissingPixels(0.5)(images, stream()) != 0
    assert torch.equal(black[seen], images[seen]) and (black[~seen] == -1).all()


def test_other_measurements_are_repeated_without_noise_or_refuse():
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(BlurNoise(2.0, 0.5).repeat(images, images), BlurNoise(2.0, 0.0)(images))
    with pytest.raises(ValueError, match="RandomProjection cannot be repeated"):
        RandomProjection().repeat(images, images)


@pytest.mark.parametrize(
    "make",
    [
        partial(MissingPixels, 1.0), partial(MissingPixels, -0.1), partial(MissingPatch, 1.0),
        partial(RandomProjection, 0.0), partial(MissingPatch, level=-2),
        partial(BlurNoise, blur=0), partial(BlurNoise, noise=-1),
        partial(Squares, measurement=BlurNoise(), inpaint="harmonic"), partial(Squares, inpaint="harmonic"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(make):
    with pytest.raises(ValueError, match="at least 0|more than 0|blur > 0|missing pixels|from -1 to 1"):
        make()


# What the data holds


def measured_squares(tmp_path, seed=0, **options) -> ImageDataModule:
    data = Squares(**({"measurement": MissingPixels(0.5)} | options))
    data.trainer = make_trainer(tmp_path)
    data.trainer.strategy.connect(make_gan(seed=seed))
    return data


@pytest.mark.parametrize("inpaint", [None, "harmonic"])
def test_an_image_has_one_measurement_whatever_its_batch_and_its_mirror_image_the_mirrored_one(tmp_path, inpaint):
    data = measured_squares(tmp_path, flip=True, inpaint=inpaint)
    dataset = data.training_set()
    (together, _), (alone, _) = dataset[[3, 7, 103, 3]], data.training_set()[[7]]
    assert torch.equal(together[1:2], alone) and torch.equal(together[0], together[3])
    assert torch.equal(together[2], together[0].flip(-1))
    assert not torch.equal(dataset[[7]][0] == 0, dataset[[8]][0] == 0) or inpaint
    assert torch.equal(data.examples("train", 1000)[0][[3, 7]], together[:2])
    assert not torch.equal(alone, measured_squares(tmp_path, seed=1, inpaint=inpaint).training_set()[[7]][0])


def test_splits_differ_in_their_masks_and_figures_compare_with_whole_images(tmp_path):
    data = measured_squares(tmp_path)
    train, test = (data.examples(split, 100)[0] == 0 for split in ("train", "test"))
    assert 0.4 < (train == test).float().mean() < 0.6
    whole = torch.cat(list(data.real_batches("train")))
    assert torch.equal(whole, torch.cat(list(Squares().real_batches("train"))))
    assert data.fingerprint("train") == Squares().fingerprint("train")


def test_filling_in_keeps_what_is_seen_and_leaves_nothing_missing(tmp_path):
    seen = measured_squares(tmp_path).training_set()[list(range(100))][0]
    filled = measured_squares(tmp_path, inpaint="biharmonic").training_set()[list(range(100))][0]
    assert torch.equal(filled[seen != 0], seen[seen != 0])
    some = (seen != 0).flatten(1).any(1)
    assert (filled[some] != 0).float().mean() > 0.99 and filled.abs().max() <= 1


def test_what_the_discriminator_sees_is_measured_of_both_kinds(tmp_path):
    batches = []

    class Judge(base.Discriminator):
        def __init__(self):
            super().__init__((4, 4), 1)
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, condition):
            batches.append((x == 0).float().mean().item())
            return self.weight * x.sum((1, 2, 3))

    gan = make_gan(discriminator=Judge(), measurement=MissingPixels(0.5))
    fit(tmp_path, gan, Squares(batch_size=50, measurement=MissingPixels(0.5)), max_steps=2)
    assert len(batches) == 6 and all(0.4 < share < 0.6 for share in batches)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPairing()], ids=["alone", "pairs"])
def test_paired_fakes_lack_the_pixels_that_the_real_batch_lacks_in_both_updates(paired, loss, tmp_path):
    seen = []

    class Judge(base.Discriminator):
        def __init__(self):
            super().__init__((4, 4), 1)
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, condition):
            seen.append(x != 0)
            return self.weight * x.sum((1, 2, 3))

    camera = MissingPixels(0.5, paired=paired)
    gan = make_gan(discriminator=Judge(), measurement=camera, loss=loss)
    fit(tmp_path, gan, Squares(batch_size=50, measurement=camera), max_steps=1)
    real, fake, *of_generator = seen
    assert torch.equal(real, fake) == paired
    if loss.relativistic:  # its update has a real batch of its own, which is judged after the fakes
        fake, real = of_generator
    else:
        (fake,) = of_generator
    assert torch.equal(real, fake) == paired


def test_only_what_shows_how_it_was_made_can_be_paired():
    images, others = torch.rand(2, 5, 1, 8, 8) + 0.1
    for measurement in (BlurNoise(), RandomProjection()):
        measured = measurement(images, stream())
        torch.manual_seed(1)
        anew = measurement.beside(others, measured)
        torch.manual_seed(1)
        assert torch.equal(anew, measurement(others))
        with pytest.raises(TypeError):
            type(measurement)(paired=True)


def test_training_on_measurements_goes_on_to_the_bit(tmp_path):
    def train(max_steps, **options):
        gan = make_gan(measurement=MissingPixels(0.5))
        trainer = make_trainer(tmp_path, max_steps=max_steps)
        trainer.fit(gan, datamodule=Squares(measurement=MissingPixels(0.5)), **options)
        trainer.save_checkpoint(tmp_path / f"{max_steps}.ckpt")
        return gan.state_dict()

    whole = train(4)
    train(2)
    torch.manual_seed(99)
    for name, value in train(4, ckpt_path=str(tmp_path / "2.ckpt")).items():
        assert torch.equal(value, whole[name]), name


# Filling in


@pytest.mark.parametrize("method, times", [("harmonic", 1), ("biharmonic", 2)])
def test_the_laplacian_is_zero_where_pixels_were_missing(method, times):
    """The stationary points of both energies, by another implementation of the Laplacian with a free border."""
    random = np.random.RandomState(0)
    image, observed = random.rand(2, 9, 7) / 2, random.rand(9, 7) < 0.4
    filled = inpainted(image, observed, method)
    np.testing.assert_array_equal(filled[:, observed], image[:, observed])
    for channel in filled:
        for _ in range(times):
            channel = ndimage.laplace(channel, mode="reflect")
        np.testing.assert_allclose(channel[~observed], 0, atol=1e-9)


def test_whole_images_stay_and_those_without_a_pixel_are_grey():
    image = np.random.RandomState(0).rand(1, 4, 4)
    np.testing.assert_array_equal(inpainted(image, np.ones((4, 4), bool), "harmonic"), image)
    np.testing.assert_array_equal(inpainted(image, np.zeros((4, 4), bool), "harmonic"), 0 * image)
