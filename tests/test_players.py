"""What the doctor sees in the two players."""

import warnings
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from conftest import Squares, make_gan

from src.callbacks.doctor import CAUSES, EARLIEST, diagnose, remedies
from src.callbacks.players import PlayerBalance, color_spread, finest_power, spacing
from src.images.augment import InstanceNoise, Premultiply, Translation
from src.networks import dcgan, fully_convolutional, resnet
from src.objectives.losses import Minimax, NonSaturating, Wasserstein, Weighted
from src.objectives.regularizers import R1

HEALTHY = {
    "accuracy/train": 0.8, "accuracy/held_out": 0.75, "accuracy/fake": 0.7, "overfitting": 0.1, "diversity": 0.9,
    "color_diversity": 0.9, "checkerboard": 0.0, "gradient": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "ailment, figures",
    [
        ("overfitting", {"overfitting": 0.8}),
        ("collapse", {"diversity": 0.1}),
        ("one_hue", {"color_diversity": 0.1}),
        ("checkerboard", {"checkerboard": 2.0}),
        ("vanishing", {"gradient": 1e-5}),
        ("d_wins", {"accuracy/train": 1.0, "accuracy/fake": 1.0}),
        ("g_wins", {"accuracy/fake": 0.0}),
    ],
)
def test_each_ailment_is_told_from_health(ailment, figures):
    assert diagnose(HEALTHY) == []
    assert diagnose(HEALTHY | figures) == [ailment]
    assert ailment in CAUSES and remedies(ailment, make_gan(), has_best=False)
    if ailment.endswith("wins"):
        assert diagnose(HEALTHY | figures, calibrated=False) == []


def test_spacing_is_the_median_distance_to_the_nearest_other():
    x = torch.tensor([0.0, 1.0, 3.0, 6.0, 10.0])[:, None]
    assert spacing(x) == pytest.approx(2.0)  # of 1, 1, 2, 3, 4
    near = 100 + 1e-3 * x.expand(5, 3000)  # copies, all but
    assert spacing(near) == pytest.approx(2e-3 * 3000**0.5, rel=0.02) and spacing(torch.ones(5, 3000)) < 1e-5


def test_large_images_are_fewer(monkeypatch):
    monkeypatch.setattr("src.callbacks.players.NUM_VALUES", 16 * 150)
    seen, gan = [], make_gan(val_images=2000)
    gan.judge = lambda x, condition: seen.append(len(x)) or x[:, 0, 0, 0]
    PlayerBalance().examine(Squares(num_images=400), gan)
    assert seen == [100, 50, 100, 50, 100, 50]  # of each kind 150, a hundred at once


class Judge(torch.nn.Module):
    """The logit is the number of the image in its set, a training image's 100 higher."""

    def __init__(self, training_images):
        super().__init__()
        self.known = training_images

    def forward(self, x, condition=None):
        return torch.stack([100.0 + 0 * i.sum() if (self.known == i).all((1, 2, 3)).any() else i.sum() * 0 for i in x])


def test_a_discriminator_that_knows_its_images_by_heart_overfits():
    data, gan = Squares(), make_gan()
    values = PlayerBalance().examine(data, gan)
    assert abs(values["overfitting"]) < 0.3
    gan.discriminator = Judge(data.examples("train", 1000)[0])
    values = PlayerBalance().examine(data, gan)
    assert values["overfitting"] == 1.0 and "overfitting" in diagnose(values | {"gradient": 1.0})


def test_a_generator_of_one_image_has_no_diversity():
    data, gan = Squares(), make_gan()
    gan.generator.to_pixels.weight.data.zero_()
    assert PlayerBalance().examine(data, gan)["diversity"] == 0.0


def test_the_training_images_themselves_have_all_the_diversity():
    data, gan = Squares(), make_gan()
    gan.sample = lambda numbers, condition: data.examples("train", 1000)[0][numbers]
    gan.val_images = 100
    assert PlayerBalance().examine(data, gan)["diversity"] == 1.0


def warnings_of(doctor, trainer, gan):
    gan.publish = lambda values: None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        doctor.on_validation_epoch_end(trainer, gan)
    return [str(warning.message) for warning in said]


def collapsed():
    gan = make_gan(loss=Wasserstein(), regularizers=[R1(0.0)])
    gan.generator.to_pixels.weight.data.zero_()
    return gan, Trainer(gan)


def test_a_warning_comes_once_and_is_remembered_in_a_checkpoint(tmp_path):
    (gan, trainer), doctor = collapsed(), PlayerBalance()
    assert warnings_of(doctor, trainer, gan) == []  # it might be gone by the next time
    resumed = PlayerBalance()
    resumed.load_state_dict(deepcopy(doctor.state_dict()))
    trainer.default_root_dir = str(tmp_path)
    for patient, has_best in ((doctor, False), (resumed, True)):
        if has_best:
            (tmp_path / "checkpoints").mkdir()
            (tmp_path / "checkpoints" / "best.ckpt").touch()
        (said,) = warnings_of(patient, trainer, gan)
        assert said.startswith("step 7: the samples resemble each other far more") and "\n" not in said
        assert ("go back to best.ckpt" in said) == has_best
    resumed.load_state_dict({"said": ["collapse"], "largest_gradient": 1.0})  # as written before `suspected` was
    for patient in (doctor, resumed, PlayerBalance(doctor=False)):
        assert warnings_of(patient, trainer, gan) + warnings_of(patient, trainer, gan) == []


def test_no_advice_before_it_can_be_known_nor_for_what_comes_and_goes():
    (gan, trainer), doctor = collapsed(), PlayerBalance()
    gan.images_seen = EARLIEST - 1
    for _ in range(3):
        assert warnings_of(doctor, trainer, gan) == []
    healthy = make_gan(loss=Wasserstein(), regularizers=[R1(0.0)], val_images=100)
    healthy.sample = lambda numbers, condition: Squares().examples("train", 1000)[0][numbers]
    for patient in (gan, healthy, gan):
        patient.images_seen, patient.logged = EARLIEST, {}
        assert warnings_of(doctor, trainer, patient) == []
    assert len(warnings_of(doctor, trainer, gan)) == 1


@pytest.mark.parametrize("ailment", CAUSES)
def test_what_is_in_use_is_not_recommended(ailment):
    bare = make_gan(loss=Minimax())
    used = {
        "loss": Weighted(NonSaturating(), 1.0),
        "regularizers": [R1(1.0)],
        "augment": [InstanceNoise(), Translation()],
    }
    equipped = make_gan(**used)
    before, after = (" ".join(remedies(ailment, gan, False)) for gan in (bare, equipped))
    assert after
    for word in ("add R1", "add Translation", "add InstanceNoise", "NonSaturating"):
        assert word not in after
    assert "raise the weight of the penalty" not in before and "best.ckpt" not in before + after
    assert ("best.ckpt" in " ".join(remedies(ailment, bare, True))) == (ailment == "collapse")


def test_the_advice_is_one_that_can_be_followed():
    """R1 is refused beside batch norm in D; transposed convolutions are not in every generator."""
    normalized = make_gan(discriminator=dcgan.Discriminator((8, 8), 1, num_blocks=2, width=4))
    assert any("with batch_norm false in D" in remedy for remedy in remedies("collapse", normalized, False))
    inside = make_gan(loss=Weighted(Weighted(Minimax())))
    assert "take model.loss NonSaturating" in remedies("vanishing", inside, False)
    for generator, advice in (
        (dcgan.Generator((4, 4), 1, width=4), "set model.generator.upsampling to nearest"),
        (dcgan.Generator((4, 4), 1, width=4, upsampling="nearest"), "lower model.g_optimizer.lr"),
        (fully_convolutional.Generator((8, 8), 1, width=4), "take src.networks.resnet.Generator, which has no"),
        (resnet.Generator((4, 4), 1, width=4), "lower model.g_optimizer.lr"),
    ):
        (said,) = remedies("checkerboard", make_gan(generator=generator), False)
        assert said.startswith(advice)


def photos(size=(32, 31), number=200, channels=3):
    """Noise with the falling spectrum of photographs, each image about a colour of its own."""
    torch.manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(number, channels, *size))
    y, x = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])
    images = torch.fft.irfft2(spectrum / (y.square() + x.square()).sqrt().clamp(min=1 / max(size)), s=size)
    return (0.3 * images / images.std() + 0.4 * torch.randn(number, channels, 1, 1)).clamp(-1, 1)


def figures(real, samples, **options):
    data, gan = Squares(), make_gan(val_images=len(samples), **options)
    data.examples = lambda split, number: (real, None)
    gan.sample = lambda numbers, condition: samples
    gan.judge = lambda x, condition: x[:, 0, 0, 0]
    return PlayerBalance().examine(data, gan)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_checkerboard_and_a_single_hue_are_told_from_photos(channels):
    real, samples = photos(channels=channels).chunk(2)
    i, j = torch.meshgrid(torch.arange(32), torch.arange(31), indexing="ij")
    harmless = [samples, samples.roll(1, 3), samples + 0.1 * torch.randn_like(samples), samples / 2]
    for healthy in harmless:
        values = figures(real, healthy)
        assert abs(values["checkerboard"]) < 0.8 and values["color_diversity"] > 0.4
    for pattern in ((i + j) % 2, i % 2, j % 2):
        values = figures(real, samples + 0.1 * (2.0 * pattern - 1))
        assert values["checkerboard"] > 1 and diagnose(HEALTHY | {"checkerboard": values["checkerboard"]})
        assert values["color_diversity"] > 0.4
    one_hue = samples - samples.mean((2, 3), keepdim=True) + 0.2
    values = figures(real, one_hue)
    assert values["color_diversity"] < 0.1 and values["diversity"] > 0.3 and abs(values["checkerboard"]) < 0.8
    assert diagnose(HEALTHY | {"color_diversity": values["color_diversity"]}) == ["one_hue"]


def test_colours_of_what_is_transparent_tell_nothing():
    colors, opaque = photos(number=100), torch.rand(100, 1, 32, 31) < 0.2
    black, noise = -torch.ones_like(colors), torch.randn_like(colors)
    real, samples = (torch.cat([colors.where(opaque, other), 2.0 * opaque - 1], 1) for other in (black, noise))
    values = figures(real, samples, augment=[Premultiply()])
    assert values["color_diversity"] == values["diversity"] == 1 and values["checkerboard"] == 0
    assert values["logits/generated"] == values["logits/train"]


def test_the_figures_of_images_are_their_formulas():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    assert color_spread(images) == pytest.approx((3 * 0.25) ** 0.5)
    stripes = 0.5 * (1 - 2.0 * (torch.arange(5) % 2)).expand(2, 3, 4, 5)
    assert finest_power(stripes) == pytest.approx(0.25 + (2 / 255) ** 2)
    assert finest_power(images) == pytest.approx((2 / 255) ** 2)
    values = figures(torch.randn(100, 3, 1, 7), torch.randn(100, 3, 1, 7))  # no neighbours in a column
    assert "diversity" in values and not {"color_diversity", "checkerboard"} & set(values)


def test_a_gradient_that_was_not_logged_is_no_ailment():
    gan, doctor = make_gan(), PlayerBalance()
    trainer = Trainer(gan)
    gan.logged = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*hardly any gradient")
        doctor.on_validation_epoch_end(trainer, gan)
    assert "vanishing" not in doctor.suspected


class Trainer:
    sanity_checking = fast_dev_run = False
    is_global_zero = True
    global_step = 7
    default_root_dir = "nowhere"
    loggers = callbacks = ()

    def __init__(self, gan):
        self.datamodule = Squares()
        self.state = SimpleNamespace(fn="fit")
        gan.publish = lambda values: None
        gan.logged = {"grad_norm/generator": 1.0}
        gan.images_seen = EARLIEST
