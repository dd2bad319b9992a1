"""A checkpoint says how its model was made, and nothing but parts is made by it."""

import logging
import random
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, Squares, fit, make_gan
from torchmetrics.image import TotalVariation

from src.cli import load
from src.engine.descriptions import described
from src.engine.ema import EMA
from src.engine.schedules import Linear
from src.gan import GAN
from src.images.augment import Translation
from src.networks import dcgan
from src.objectives.losses import NonSaturating
from src.objectives.regularizers import R1


class Mine(NonSaturating):
    """Of a user."""


def saved(gan, folder):
    gan.trainer.save_checkpoint(folder / "plain.ckpt")
    return folder / "plain.ckpt"


def equal(one, other):
    return all(torch.equal(*pair) for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def draws():
    return torch.rand(2).tolist(), np.random.rand(), random.random()


def draws_after(call):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    call()
    return draws()


@pytest.fixture
def trained(tmp_path):
    options = {"regularizers": [R1(Linear(1.0, 0.1, 100), every=2)], "augment": [Translation()], "loss": Mine()}
    return fit(tmp_path, make_gan(num_classes=2, ema=EMA(1000), seed=7, **options), Squares(labels=True))


def test_a_checkpoint_of_the_plain_trainer_gives_the_model_without_further_arguments(trained, tmp_path):
    path = saved(trained, tmp_path)
    again = GAN.load_from_checkpoint(path)
    assert draws_after(lambda: GAN.load_from_checkpoint(path)) == draws_after(lambda: None)
    assert equal(again, trained) and (type(again.loss), again.seed, again.trained_steps) == (Mine, 7, 3)
    assert again.regularizers[0].schedules["weight"].images == 100 and type(again.augment[0]) is Translation
    assert again.hparams.generator["init_args"]["latent_dim"] == 4
    numbers = torch.arange(4)
    assert torch.equal(again.sample(numbers, numbers % 2), trained.sample(numbers, numbers % 2))
    fit(tmp_path, again, Squares(labels=True), max_steps=4)  # it has its optimizers, too


def test_calling_the_model_calls_the_averaged_generator_as_it_evaluates(trained):
    z, labels = torch.randn(5, 4), torch.arange(5) % 2
    trained.train()
    images = trained(z, labels)
    assert trained.generator_ema.training
    assert torch.equal(images, trained.generator_ema.eval()(z, labels))
    assert not torch.equal(images, trained.generator.eval()(z, labels))
    trained.generator_ema = None
    assert torch.equal(trained(z, labels), trained.generator(z, labels))


def test_what_was_made_by_hand_is_asked_for_when_it_is_needed(tmp_path, caplog):
    adam = partial(torch.optim.Adam, lr=0.1)
    gan = make_gan(g_optimizer=lambda weights: torch.optim.Adam(weights), metrics=[TotalVariation()])
    path = saved(fit(tmp_path, gan), tmp_path)
    with caplog.at_level(logging.INFO):
        again = GAN.load_from_checkpoint(path)
    assert equal(again, gan) and again.metrics == []
    assert any("without metrics: nothing says how" in line and "TotalVariation" in line for line in caplog.messages)
    with pytest.raises(ValueError, match="nothing says how .*<lambda> was made: .*g_optimizer=..."):
        fit(tmp_path, again)
    fit(tmp_path, GAN.load_from_checkpoint(path, g_optimizer=adam))


def test_a_checkpoint_of_an_earlier_version_gives_the_model_too():
    path = ROOT / "tests" / "run-of-0.1.ckpt"
    again = GAN.load_from_checkpoint(path)
    assert equal(again, load(str(path))) and again.hparams.loss["class_path"].startswith("src.objectives.")


def test_nothing_but_a_part_is_made(trained, tmp_path):
    path = saved(trained, tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    for argument in ("loss", "g_optimizer", "generator"):
        harm = {"class_path": "pathlib.Path.touch", "init_args": {"self": str(tmp_path / "harm")}}
        torch.save(checkpoint | {"hyper_parameters": checkpoint["hyper_parameters"] | {argument: harm}}, path)
        with pytest.raises(ValueError, match=argument):
            GAN.load_from_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_loading_leaves_the_caller_as_he_was(run, capfd, caplog):
    path = str(run / "checkpoints" / "last.ckpt")
    capfd.readouterr(), caplog.clear()
    assert draws_after(lambda: load(path)) == draws_after(lambda: None)
    assert draws_after(lambda: GAN.load_from_checkpoint(path)) == draws_after(lambda: None)
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_numbers_that_a_part_chose_are_told():
    generator = dcgan.Generator((8, 8), 1, num_blocks=None)
    assert described(generator)["init_args"]["num_blocks"] == generator.num_blocks == 1


def test_a_number_takes_the_place_of_a_number_and_not_of_a_network():
    gan = make_gan()
    gan.d_steps = 3
    assert gan.d_steps == 3
    with pytest.raises(TypeError, match="generator"):
        gan.generator = 3
