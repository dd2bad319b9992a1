"""An exported generator is the averaged one, alone; its card and its program need nothing of this project."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, Squares, fit, make_gan, refusal
from PIL import Image
from safetensors.torch import load_file

from src.cli import load, main
from src.engine.ema import EMA
from src.gan import GAN
from src.images.pixels import to_uint8
from src.metrics.bags import BagScore

NEEDED = {".pt2": [], ".onnx": ["onnx", "onnxscript", "onnxruntime"]}


def trained(folder, num_classes=2, **options):
    """A conditional GAN, and its checkpoint by Lightning's own Trainer."""
    gan = fit(folder, make_gan(num_classes, ema=EMA(1000), seed=3, **options), Squares(labels=bool(num_classes)))
    gan.trainer.save_checkpoint(folder / "plain.ckpt")
    return gan, str(folder / "plain.ckpt")


@pytest.mark.parametrize(("suffix", "num_classes"), [(".pt2", 2), (".onnx", 2), (".onnx", 0)])
def test_a_program_draws_without_this_project(suffix, num_classes, tmp_path, capsys):
    for package in NEEDED[suffix]:
        pytest.importorskip(package)
    gan, path = trained(tmp_path, num_classes)
    main(["export", "--ckpt_path", path, "--output", str(tmp_path / "out" / f"small{suffix}"), "--license", "mit"])
    said = capsys.readouterr().out
    assert float(said.partition("at once: ")[2].split()[0]) < 1e-5
    away = tmp_path / "away"
    (tmp_path / "out").rename(away)  # nothing refers to where it was
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-P", "run.py", "3", "5"]
    done = subprocess.run(words, cwd=away, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    if suffix == ".onnx":
        z = torch.from_numpy(np.random.RandomState(5).standard_normal((3, 4)).astype(np.float32))
    expected = to_uint8(gan(z, torch.arange(3) % 2 if num_classes else None))
    for i in range(3):
        with Image.open(away / f"{i:04}.png") as picture:
            assert picture.mode == "L" and np.abs(np.asarray(picture) - expected[i, 0].numpy().astype(int)).max() <= 1
    whole = b"".join(file.read_bytes() for file in away.iterdir())
    assert str(ROOT).encode() not in whole and str(tmp_path).encode() not in whole
    program = (away / "run.py").read_text()
    assert "src" not in program and len(program.splitlines()) <= 30
    assert "license: mit" in (away / "README.md").read_text()


def test_the_weights_are_those_of_the_averaged_generator_and_nothing_else(tmp_path):
    gan, path = trained(tmp_path)
    output = tmp_path / "out" / "small.safetensors"
    main(["export", "--ckpt_path", path, "--output", str(output)])
    held = load_file(output)
    assert held.keys() == gan.generator_ema.state_dict().keys()
    assert all(torch.equal(held[name], weight) for name, weight in gan.generator_ema.state_dict().items())
    umask = os.umask(0)
    os.umask(umask)
    assert output.stat().st_mode & 0o777 == 0o666 & ~umask
    assert str(ROOT).encode() not in output.read_bytes()
    numbers = torch.arange(5)
    for again in (load(str(output)), GAN.load_from_checkpoint(output)):
        assert torch.equal(again.sample(numbers, numbers % 2), gan.sample(numbers, numbers % 2))
    main(["export", "--ckpt_path", str(output), "--output", str(tmp_path / "again" / "small.pt2")])


def test_the_card_tells_the_data_the_figures_and_the_versions(run, tmp_path, capsys):
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    export = ["export", "--ckpt_path", checkpoint, "--output", str(tmp_path / "out" / "a.pt2")]
    main(export)
    assert "the card has no figures" in capsys.readouterr().out
    assert "not scored" in (tmp_path / "out" / "README.md").read_text()
    main(["test", "--ckpt_path", checkpoint])
    capsys.readouterr()
    main(export)  # over its own card
    assert "no figures" not in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    (figure, *_) = json.loads((run / "metrics.json").read_text())["results"]
    assert f"| {figure['name']} | {figure['value']:.4f} ± {figure['error']:.4f} | " in card
    digest = torch.load(checkpoint, weights_only=True)["trained_on"]["digest"]
    assert figure["protocol"]["real_data"] == digest[:8]
    for word in (f"1,437 images of Digits, SHA-256 {digest}", "4 steps", "seed 0", "torch 2", "0 to 9: 0, 1, 2"):
        assert word in card, word


def test_exports_that_cannot_be_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    _, path = trained(tmp_path)

    def refused(name):
        return refusal(["export", "--ckpt_path", path, "--output", str(tmp_path / name)], capsys)

    (tmp_path / "README.md").write_text("# Mine\n")
    assert "holds a README.md already: choose a folder of its own, --output small/small.pt2" in refused("small.pt2")
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    with monkeypatch.context() as patch:
        patch.setattr("src.commands.export.find_spec", lambda name: None)
        assert "pip install onnx onnxscript onnxruntime, or name a .pt2" in refused("out/a.onnx")
    monkeypatch.setattr("src.commands.export.difference", lambda *_: 0.5)
    assert "differs from PyTorch by 0.5" in refused("out/a.pt2")
    assert not list((tmp_path / "out").iterdir())


def test_a_generator_alone_is_not_asked_for_its_discriminator(tmp_path):
    _, path = trained(tmp_path)
    main(["export", "--ckpt_path", path, "--output", str(tmp_path / "out" / "a.safetensors")])
    with pytest.raises(ValueError, match="BagScore asks the discriminator, and the file holds a generator alone"):
        GAN.load_from_checkpoint(tmp_path / "out" / "a.safetensors", metrics=[BagScore()])
