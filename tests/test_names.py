"""Configurations and checkpoints of version 0.1 load, although classes have moved."""

import shutil
from importlib import import_module

import pytest
import torch
from conftest import ROOT

from src.cli import load, main
from src.engine.moved import MOVED, renewed

CHECKPOINT = ROOT / "tests" / "run-of-0.1.ckpt"  # written by `fit` of 0.1, with parts from all rooms that moved
OLD = """\
model:
  loss: src.losses.Hinge
  regularizers: [{class_path: src.regularizers.R1, init_args: {weight: 1.0}}]
  g_regularizers: [{class_path: src.auxiliary.Information}]
  augment: [src.augment.Translation]
  ema: {class_path: src.ema.EMA, init_args: {half_life: 100}}
"""


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_names_are_renewed_and_the_new_ones_are_there(old, new):
    assert renewed(f"x: {old}.Name") == f"x: {new}.Name" and renewed(old) == new
    assert renewed(f"{new}.Name") == f"{new}.Name"
    assert renewed(f"my_{old}.Name") == f"my_{old}.Name"
    module, _, name = new.rpartition(".")
    try:
        import_module(new)
    except ModuleNotFoundError:
        assert hasattr(import_module(module), name)


def test_a_checkpoint_of_0_1_goes_on_and_is_sampled_from(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(CHECKPOINT, folder / "last.ckpt")
    main(["fit", "--ckpt_path", str(folder / "last.ckpt"), "--trainer.max_steps", "6", "--trainer.logger", "false"])
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 6
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "src.objectives.losses.RelativisticPairing" in config and "src.losses" not in config
    assert load(str(CHECKPOINT)).sample(torch.arange(3), torch.arange(3)).shape == (3, 1, 8, 8)


def test_a_configuration_and_options_of_0_1_are_read(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text(OLD)
    config = ["--config", str(ROOT / "configs" / "digits.yaml"), "--config", str(tmp_path / "old.yaml")]
    with pytest.raises(SystemExit):
        main(["fit", *config, "--model.augment+=src.augment.Cutout", "--print_config"])
    said = capsys.readouterr().out
    for name in ("losses.Hinge", "regularizers.R1", "auxiliary.Information"):
        assert f"src.objectives.{name}" in said
    for name in ("src.images.augment.Translation", "src.images.augment.Cutout", "src.engine.ema.EMA"):
        assert name in said
