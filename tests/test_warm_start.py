"""Runs that begin with the weights of another one, and weights that stay as they are."""

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Squares, fit, make_gan, refusal, trained_briefly
from safetensors.torch import save_file

from src.cli import main
from src.commands.warm_start import take

DENSE = ("--model.generator", "mlp.Generator", "--model.discriminator", "mlp.Discriminator")


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b, *beginnings):
    names = [name for name in a if name.startswith(beginnings)]
    assert names
    return [torch.equal(a[name], b[name]) for name in names]


def test_a_run_begins_with_the_weights_of_another_and_a_line_says_which_do_not_fit(brief, tmp_path, caplog):
    still = ("--model.g_optimizer.lr", "0", "--model.d_optimizer.lr", "0", "--init_from", brief)
    before = state(brief)
    after = state(trained_briefly(tmp_path / "a", *DENSE, *still, "--seed_everything", "1"))
    assert all(same(before, after, "generator.", "discriminator."))
    assert all(torch.equal(after[f"generator_ema.{k}"], before[f"generator.{k}"]) for k in ("embed.weight",))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fewer = ("--data.labels", "false", "--model.generator.hidden", "[128,32]")
        other = state(trained_briefly(tmp_path / "b", *DENSE, *still, *fewer))
    fit_to = [name for name in other if name.startswith(("generator.", "discriminator."))]
    fitting = [name for name in fit_to if name in before and before[name].shape == other[name].shape]
    assert 0 < len(fitting) < len(fit_to) and all(torch.equal(before[name], other[name]) for name in fitting)
    said = next(line for line in caplog.messages if line.startswith(f"weights of {brief}, step 2"))
    assert f"{len(fitting)} of {len(fit_to)} tensors fit (num_classes 10 there, 0 here); new are" in said
    assert "2 of its tensors have no place here" in said
    assert "generator.hidden.0.weight 128x200 there, 128x100 here" in said
    assert "generator.hidden.2.weight not there" in said


def test_a_generator_alone_is_taken_too(tmp_path, caplog):
    source, gan = make_gan(2), make_gan(2)
    torch.nn.init.normal_(source.generator.embed.weight)
    told = {"checkpoint": json.dumps({"global_step": 7, "generator_alone": True})}
    save_file(source.generator.state_dict(), tmp_path / "alone.safetensors", metadata=told)
    with caplog.at_level(logging.INFO):
        take(gan, str(tmp_path / "alone.safetensors"))
    assert all(same(source.state_dict(), gan.state_dict(), "generator."))
    assert "step 7: 5 of 10 tensors fit; new are discriminator." in caplog.messages[-1]


def test_frozen_weights_stay_and_the_others_train(tmp_path):
    adam = partial(torch.optim.Adam, lr=0.01)
    gan = make_gan(2, freeze=["generator.hidden", "discriminator.*.bias"], g_optimizer=adam)
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    fit(tmp_path, gan, Squares(labels=True))
    stayed = {name for name, value in gan.state_dict().items() if torch.equal(value, before[name])}
    named = [name for name in before if name.startswith("generator.hidden") or name.endswith(".bias")]
    assert stayed == {name for name in named if name != "generator.to_pixels.bias"}


def test_the_optimizer_and_the_average_of_a_frozen_run(tmp_path):
    options = ("--model.freeze", "[generator.hidden]")
    path = trained_briefly(tmp_path / "run", *DENSE, *options)
    checkpoint = torch.load(path, weights_only=True)
    weights = checkpoint["state_dict"]
    assert all(
        torch.equal(weights[name], weights[name.replace("generator.", "generator_ema.")])
        for name in weights if name.startswith("generator.hidden")
    )  # fmt: skip
    assert not torch.equal(weights["generator.embed.weight"], weights["generator_ema.embed.weight"])
    names = [name.removeprefix("generator.") for name in weights if name.startswith("generator.")]
    kept = {names[number] for number in checkpoint["optimizer_states"][0]["state"]}
    assert kept == {name for name in names if not name.startswith("hidden")}


def test_a_run_that_began_so_resumes_exactly(brief, tmp_path, capsys):
    source = tmp_path / "source.ckpt"
    source.write_bytes(Path(brief).read_bytes())
    began = (*DENSE, "--init_from", str(source), "--model.freeze", "[discriminator.hidden]")
    whole = trained_briefly(tmp_path / "whole", *began)  # two steps
    half = trained_briefly(tmp_path / "half", *began, steps=1)
    source.unlink()
    main(["fit", "--run_dir", str(tmp_path / "half"), "--resume", "--trainer.max_steps", "2"])
    assert all(same(state(whole), state(half), "generator", "discriminator"))
    assert all(same(state(brief), state(half), "discriminator.hidden"))
    assert f"init_from: {source}" in (tmp_path / "half" / "config.yaml").read_text()
    told = ["fit", "--run_dir", str(tmp_path / "half"), "--resume", "--init_from", brief]
    assert "begins a run, and this one goes on: leave it out" in refusal(told, capsys)


REFUSALS = {
    "--model.freeze [generator.body]": ["generator.body names no weight", "generator.hidden.0, generator.to_pixels"],
    "--model.freeze [discriminator]": ["leaves nothing of the discriminator to train"],
    "--init_from gone.ckpt": ["there is no checkpoint gone.ckpt"],
    "--init_from other.ckpt": ["none of its weights fits"],
}  # fmt: skip


@pytest.mark.parametrize("options", REFUSALS)
def test_what_cannot_begin_is_refused(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"generator.first": torch.zeros(2)}, "global_step": 1}, "other.ckpt")
    line = refusal(["fit", *DENSE, "--data", "Digits", "--run_dir", "new", *options.split(" ", 1)], capsys)
    assert all(word in line for word in REFUSALS[options]) and not (tmp_path / "new").exists()
