"""What the doctor sees in the two players."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import Squares, make_gan

from src.callbacks.players import REMEDIES, PlayerBalance, diagnose, spacing
from src.objectives.losses import Wasserstein

HEALTHY = {
    "accuracy/train": 0.8, "accuracy/held_out": 0.75, "accuracy/fake": 0.7, "overfitting": 0.1, "diversity": 0.9,
    "gradient": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "ailment, figures",
    [
        ("overfitting", {"overfitting": 0.8}),
        ("collapse", {"diversity": 0.1}),
        ("vanishing", {"gradient": 1e-5}),
        ("d_wins", {"accuracy/train": 1.0, "accuracy/fake": 1.0}),
        ("g_wins", {"accuracy/fake": 0.0}),
    ],
)
def test_each_ailment_is_told_from_health(ailment, figures):
    assert diagnose(HEALTHY) == []
    assert diagnose(HEALTHY | figures) == [ailment]
    assert ailment in REMEDIES
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


def test_a_warning_comes_once_and_is_remembered_in_a_checkpoint():
    gan, doctor = make_gan(loss=Wasserstein()), PlayerBalance()
    gan.generator.to_pixels.weight.data.zero_()
    trainer = Trainer(gan)
    with pytest.warns(UserWarning, match="step 7: the samples resemble each other"):
        doctor.on_validation_end(trainer, gan)
    again = PlayerBalance()
    again.load_state_dict(doctor.state_dict())
    for patient in (doctor, again, PlayerBalance(doctor=False)):
        with pytest.warns() as said:
            patient.on_validation_end(trainer, gan)
            warnings.warn("another", UserWarning, stacklevel=1)
        assert [str(w.message) for w in said] == ["another"]


def test_a_gradient_that_was_not_logged_is_no_ailment():
    gan, doctor = make_gan(), PlayerBalance()
    trainer = Trainer(gan)
    gan.logged = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*hardly any gradient")
        doctor.on_validation_end(trainer, gan)
    assert "vanishing" not in doctor.said


class Trainer:
    sanity_checking = fast_dev_run = False
    is_global_zero = True
    global_step = 7
    loggers = ()

    def __init__(self, gan):
        self.datamodule = Squares()
        self.state = SimpleNamespace(fn="fit")
        gan.logged = {"grad_norm/generator": 1.0}
