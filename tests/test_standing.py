"""Standing statistics: measured on the averaged generator, seen by evaluation and checkpoint, and by nobody else."""

from functools import partial

import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer

from src.callbacks.standing import StandingStatistics
from src.engine.ema import EMA
from src.networks import dcgan


def gan():
    torch.manual_seed(0)
    generator = dcgan.Generator((4, 4), 1, 2, latent_dim=4, width=4)
    return make_gan(2, generator=generator, ema=EMA(decay=0.9), g_optimizer=partial(torch.optim.SGD, lr=0.01))


def test_statistics_are_means_over_batches_of_samples_of_the_averaged_generator(tmp_path):
    callback, data = StandingStatistics(batches=3, batch_size=5), Squares(labels=True)
    model, plain = gan(), fit(tmp_path, gan(), Squares(labels=True))
    trainer = make_trainer(tmp_path, callbacks=[callback])
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "standing.ckpt")
    kept = torch.load(tmp_path / "standing.ckpt", weights_only=True)["state_dict"]

    network = model.generator_ema.eval()
    grids = network.linear(model.latents_of(torch.arange(15))).view(3, 5, *network.grid)
    expected = grids.mean((1, 3, 4)).mean(0), grids.transpose(1, 2).flatten(2).var(2).mean(0)
    for name, value in zip(("running_mean", "running_var"), expected, strict=True):
        torch.testing.assert_close(kept[f"generator_ema.norms.0.norm.{name}"], value)
        assert torch.equal(kept[f"generator.norms.0.norm.{name}"], plain.state_dict()[f"generator.norms.0.norm.{name}"])
    assert network.norms[0].norm.momentum == 0.1 and not network.norms[0].norm.training
    for name, weight in plain.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name


def test_evaluation_sees_them(tmp_path):
    model = fit(tmp_path, gan(), Squares(labels=True))
    before = model.sample(torch.arange(4), torch.tensor([0, 1, 0, 1]))
    make_trainer(tmp_path, callbacks=[StandingStatistics(2, 8)]).test(model, datamodule=Squares(labels=True))
    assert not torch.allclose(before, model.sample(torch.arange(4), torch.tensor([0, 1, 0, 1])))


@pytest.mark.parametrize("options", [{"batches": 0}, {"batch_size": 1}])
def test_too_few_are_refused(options):
    with pytest.raises(ValueError, match="batches >= 1 and batch_size >= 2"):
        StandingStatistics(**options)


def test_runs_without_an_average_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs batch normalization in the generator and model.ema"):
        fit(tmp_path, make_gan(), Squares(), callbacks=[StandingStatistics()])
