"""Mixed precision: overflows, clipping and penalties act on true gradients."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import yaml
from conftest import Squares, fit, make_gan, make_trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.utils import parameters_to_vector

from src.cli import main
from src.commands.going_on import is_exact
from src.commands.trainer import Trainer
from src.engine import precision
from src.networks.classical import Gaussian
from src.objectives.losses import Loss
from src.objectives.regularizers import R1, GradientPenalty


def weights(network):
    return parameters_to_vector(network.parameters()).detach().clone()


def half(scale=2.0**10):
    """Float16 with a gradient scaler, on the CPU, where Lightning would take bfloat16."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6))


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path):
    gan = make_gan(regularizers=[R1(1.0)])
    seen = []
    forward = gan.generator.forward
    gan.generator.forward = lambda *args: seen.append(torch.is_autocast_enabled("cpu")) or forward(*args)
    before = weights(gan.generator)
    fit(tmp_path, gan, max_steps=3, precision="bf16-mixed")
    assert all(seen) and gan.generator.state_dict()[next(iter(gan.generator.state_dict()))].dtype == torch.float32
    assert torch.isfinite(weights(gan.generator)).all() and not torch.equal(weights(gan.generator), before)


class Nothing(Loss):
    """No game, and a look at the logits that it is asked for."""

    def generator(self, real_logits, fake_logits):
        return self.discriminator(fake_logits, fake_logits)

    def discriminator(self, real_logits, fake_logits):
        assert real_logits.dtype == fake_logits.dtype == torch.float32
        return 0 * (real_logits + fake_logits).mean()


@pytest.mark.parametrize("penalty", [R1, GradientPenalty])
def test_penalties_and_their_gradients_are_those_of_float32(tmp_path, penalty):
    """Their second derivative too, although the whole step is under autocast."""
    results = {}
    for arithmetic in ("32-true", "bf16-mixed"):
        gan = make_gan(loss=Nothing(), regularizers=[penalty(1.0)])
        gan.generator.register_forward_hook(lambda module, given, images: 0 * images)  # the same in both
        before = weights(gan.discriminator)
        fit(tmp_path, gan, max_steps=1, precision=arithmetic)
        results[arithmetic] = weights(gan.discriminator)
    assert torch.equal(results["bf16-mixed"], results["32-true"])
    assert not torch.equal(results["32-true"], before)


def test_the_generator_meets_the_discriminator_of_this_step_not_a_cast_copy_of_the_last_one(tmp_path):
    """What autocast's cache of weights would do: the whole step, both updates, is one autocast context."""
    gan = make_gan()
    images = torch.randn(8, 1, 4, 4)
    answers = []

    def look():
        answers.append((gan.discriminator(images), deepcopy(gan.discriminator)(images)))  # a copy is in no cache

    gan.update_generator = lambda *_, original=gan.update_generator: look() or original(*_)
    gan.update_discriminator = lambda *_, original=gan.update_discriminator: look() or original(*_)
    fit(tmp_path, gan, max_steps=1, precision="bf16-mixed")
    (before, _), (after, fresh) = answers
    assert torch.equal(after, fresh) and not torch.equal(after, before)


def test_samples_are_drawn_in_float32(tmp_path):
    gan = fit(tmp_path, precision="bf16-mixed")
    expected = gan.sample(torch.arange(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gan.sample(torch.arange(4)), expected)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_an_overflow_of_one_player_neither_skips_nor_scales_the_other(tmp_path, player):
    """One step of the other player equals the one in float32, although this player's gradient is infinite."""
    results = {}
    for name, options in {"half": {"plugins": [half()]}, "full": {}}.items():
        gan = make_gan()
        moved = gan.discriminator if player == "generator" else gan.generator
        backward = gan.backward_into
        overflowing = getattr(gan, player)
        weight = next(overflowing.parameters())

        def poisoned(optimizer, loss, backward=backward, weight=weight):
            mine = optimizer.param_groups[0]["params"][0] is weight
            backward(optimizer, loss * float("inf") if mine else loss)

        if name == "half":
            gan.backward_into = poisoned
        elif player == "discriminator":  # the discriminator must not have moved when the generator steps
            gan.optimizer_callables = (gan.optimizer_callables[0], partial(torch.optim.SGD, lr=0.0))
        before = weights(overflowing)
        start = weights(moved)
        make_trainer(tmp_path, max_steps=1, **options).fit(gan, datamodule=Squares())
        results[name] = weights(moved) - start
        if name == "half":
            assert torch.equal(weights(overflowing), before)  # skipped
            assert gan.trainer.precision_plugin.scaler.get_scale() == 2.0**9
    torch.testing.assert_close(results["half"], results["full"], rtol=2e-2, atol=2e-4)
    assert results["half"].abs().max() > 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_acts_on_unscaled_gradients(tmp_path, fused):
    """A clipped step in float16 equals the one in float32, also where the optimizer unscales inside its step."""
    adam = partial(torch.optim.Adam, lr=1e-2, eps=1e-2, fused=fused)  # this eps makes the size of a gradient count
    moved, norms = [], []
    for options in ({}, {"plugins": [half()]}):
        gan = make_gan(g_clip=0.05, d_clip=0.05, g_optimizer=adam, d_optimizer=adam)
        start = weights(gan.generator)
        gan.log_curves = lambda *_, gan=gan: norms.append({k: v.item() for k, v in gan.curves.items() if "norm" in k})
        fit(tmp_path, gan, max_steps=1, log_every_n_steps=1, **options)
        moved.append(weights(gan.generator) - start)
    torch.testing.assert_close(moved[1], moved[0], rtol=2e-2, atol=2e-5)
    assert norms[1] == pytest.approx(norms[0], rel=2e-2) and min(norms[0].values()) > 0.05  # of before the clipping


def test_a_generator_without_gradients_takes_no_scaler(tmp_path):
    gan = make_gan(generator=Gaussian((4, 4), 1))
    with pytest.raises(ValueError, match="this generator has none: --trainer.precision bf16-mixed"):
        fit(tmp_path, gan, max_steps=2, plugins=[half()])
    fit(tmp_path, gan, max_steps=2, precision="bf16-mixed")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_precisions_on_a_gpu(tmp_path, precision):
    adam = partial(torch.optim.Adam, lr=1e-3)
    gan = make_gan(regularizers=[R1(1.0)], g_optimizer=adam, d_optimizer=adam, g_clip=1.0, d_clip=1.0)
    before = weights(gan.generator)
    fit(tmp_path, gan, max_steps=20, accelerator="gpu", devices=1, precision=precision)
    assert torch.isfinite(weights(gan.generator)).all() and not torch.equal(weights(gan.generator).cpu(), before)


@pytest.mark.parametrize(
    "accelerator, gpu, cpu, expected",
    [
        ("auto", None, {"amx_bf16": True, "avx512_bf16": True}, "bf16-mixed"),
        ("auto", None, {"amx_bf16": False, "avx512_bf16": True}, "32-true"),  # slower than float32 there
        ("auto", None, {}, "32-true"),  # another architecture
        ("auto", True, {}, "bf16-mixed"),
        ("gpu", False, {"amx_bf16": True}, "32-true"),
        ("cpu", True, {}, "32-true"),
        ("cpu", False, {"amx_bf16": True}, "bf16-mixed"),
        ("mps", None, {"amx_bf16": True}, "32-true"),
    ],
)
def test_automatic_precision_asks_the_device_that_computes(monkeypatch, accelerator, gpu, cpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "the GPU")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    found, why = precision.automatic(accelerator)
    assert found == expected
    assert ("the GPU" in why) == (gpu is not None and accelerator != "cpu")


@pytest.mark.parametrize("amx", [True, False])
def test_a_run_with_automatic_precision_says_and_keeps_the_plain_one(monkeypatch, tiny_config, tmp_path, capfd, amx):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    taken = "bf16-mixed" if amx else "32-true"
    args = ["fit", "--config", str(tiny_config), "--trainer.precision", "auto"]
    main([*args, "--run_dir", str(tmp_path / "auto")])
    assert (
        f"trainer.precision auto: {taken}, since this processor has {'' if amx else 'no '}AMX" in capfd.readouterr().out
    )
    assert yaml.safe_load((tmp_path / "auto" / "config.yaml").read_text())["trainer"]["precision"] == taken

    main([*args, "--trainer.precision", "bf16-mixed", "--run_dir", str(tmp_path / "said")])  # what is said wins
    assert "precision auto" not in capfd.readouterr().out
    assert yaml.safe_load((tmp_path / "said" / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"


def test_the_precision_of_products_is_that_of_pytorch_until_it_is_said(caplog, tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        Trainer(logger=False, default_root_dir=tmp_path)
        assert torch.get_float32_matmul_precision() == "medium" and "multiplied" not in caplog.text
        Trainer(matmul_precision="high", logger=False, default_root_dir=tmp_path)
        assert torch.get_float32_matmul_precision() == "high" and "multiplied with precision 'high'" in caplog.text
    finally:
        torch.set_float32_matmul_precision(before)
    assert not is_exact("trainer.matmul_precision")  # a run that goes on with another is another run
