"""Averages by the power function: two are kept, and any other is solved."""

import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer, refusal
from test_networks import build

from src.callbacks.averages import KeptAverages
from src.callbacks.checkpoints import AtomicCheckpointIO
from src.cli import load, main
from src.engine.ema import PowerEMA, average_file, product, solved
from src.networks import dcgan


def weights(network):
    return flat(dict(network.named_parameters()))


def flat(average):
    return torch.cat([average[name].flatten() for name in sorted(average)])


@pytest.mark.parametrize("a, b", [((3.0, 6.94), (5.0, 16.97)), ((5.0, 16.97), (3.0, 6.94)), ((2.0, 0.5), (2.0, 7.0))])
def test_the_product_of_two_densities_is_its_integral(a, b):
    s = (torch.arange(200000, dtype=torch.float64) + 0.5) / 40000
    densities = [torch.where(s < t, (p + 1) * s**p / t ** (p + 1), 0) for t, p in (a, b)]
    assert product(a, b) == pytest.approx((densities[0] * densities[1]).sum().item() / 40000, rel=1e-4)


def test_an_average_that_was_not_kept_is_solved_from_those_that_were(tmp_path):
    gan = make_gan(ema=PowerEMA(0.15))
    fit(tmp_path, gan, max_steps=64, callbacks=[KeptAverages(every_n_steps=8)])
    found = flat(solved(tmp_path, 64, 0.15))
    true, kept = weights(gan.generator_ema), flat(solved(tmp_path, 64, 0.10))
    assert (found - true).norm() < 0.05 * (kept - true).norm()
    assert len(list((tmp_path / "averages").iterdir())) == 16

    again = make_gan(ema=PowerEMA(0.10))
    fit(tmp_path / "kept", again, max_steps=64)
    torch.testing.assert_close(kept, weights(again.generator_ema), rtol=1e-4, atol=1e-6)


def test_the_averages_go_on_where_a_run_was_stopped(tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    fit(whole, max_steps=6, callbacks=[KeptAverages(every_n_steps=3)])
    trainer = make_trainer(half, 4, callbacks=[KeptAverages(3)], plugins=[AtomicCheckpointIO()])
    trainer.fit(make_gan(), datamodule=Squares())
    trainer.save_checkpoint(half / "4.ckpt")
    again = make_trainer(half, 6, callbacks=[KeptAverages(3)])
    again.fit(make_gan(), datamodule=Squares(), ckpt_path=half / "4.ckpt")
    for step in (3, 6):
        for length in (0.05, 0.10):
            written = [average_file(folder, step, length).read_bytes() for folder in (whole, half)]
            assert written[0] == written[1]


def test_export_writes_the_average_of_another_length(tiny_config, tmp_path, capsys):
    run = tmp_path / "run"
    more = ["--trainer.callbacks+=KeptAverages", "--trainer.callbacks.every_n_steps", "2"]
    main(["fit", "--config", str(tiny_config), "--run_dir", str(run), "--trainer.limit_val_batches", "0", *more])
    checkpoint, output = run / "checkpoints" / "last.ckpt", tmp_path / "long.safetensors"
    main(["export", "--ckpt_path", str(checkpoint), "--output", str(output), "--length", "0.2"])
    torch.testing.assert_close(weights(load(str(output)).generator_ema), flat(solved(run, 4, 0.2)))
    for file in (run / "averages").glob("*4-*"):
        file.unlink()
    said = refusal(["export", "--ckpt_path", str(checkpoint), "--output", str(output), "--length", "0.2"], capsys)
    assert "has no averages of step 4" in said


def test_what_cannot_be_averaged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="KeptAverages needs a generator without batch normalization"):
        fit(tmp_path, make_gan(generator=build(dcgan.Generator, (4, 4), 1)), callbacks=[KeptAverages()])
    with pytest.raises(ValueError, match="every_n_steps of KeptAverages"):
        KeptAverages(0)
