"""`fit --minutes`: measured, planned, written down, and kept to."""

import itertools
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import Squares, make_gan, make_trainer, refusal

from src.cli import main
from src.commands import minutes
from src.objectives.regularizers import R1

STEP = 2.0  # seconds, of a machine that a test says there is


def machine(monkeypatch, measured, trains, until=0, at_first=0.0):
    """A step takes so many seconds when it is measured, and so many later, or others until a step."""
    paces = itertools.chain([0.0], [at_first] * until, itertools.repeat(trains))
    clock = itertools.accumulate(paces)  # which is asked once a step
    monkeypatch.setattr(minutes, "measure", lambda *_: (measured, 24, False))
    monkeypatch.setattr(minutes, "time", SimpleNamespace(monotonic=lambda: next(clock)))


@pytest.fixture
def on_a_slow_machine(monkeypatch):
    machine(monkeypatch, STEP, STEP)


def config_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a | b)


def test_the_plan_is_in_the_configuration_and_repeats_the_run(on_a_slow_machine, tiny_config, tmp_path, caplog):
    run, again = tmp_path / "run", tmp_path / "again"
    main(["fit", "--config", str(tiny_config), "--run_dir", str(run), "--minutes", "0.2"])
    said = "5 steps of batch_size 8, 2e+03 ms each (measured over 24), a validation every 5, g_scheduler LateLR"
    assert f"--minutes 0.2: {said} to 0" in caplog.text and "d_scheduler LateLR" in caplog.text
    config = config_of(run)
    assert config["trainer"]["max_steps"] == 5 == int(12 * minutes.FOR_STEPS / STEP)
    assert config["trainer"]["val_check_interval"] == 5  # it computes a distance: once, at the end
    assert config["model"]["g_scheduler"]["init_args"]["total_iters"] == 5
    assert config["minutes"] is None
    main(["fit", "--config", str(run / "config.yaml"), "--run_dir", str(again)])
    assert equal(weights(run), weights(again))


def test_measuring_leaves_no_trace_in_the_weights(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(minutes, "MEASURED", 0.01)
    monkeypatch.setattr(minutes, "measure", slowed(minutes.measure))
    monkeypatch.setattr(minutes.TimeLimit, "revise", lambda *_: None)  # this machine is quicker than told
    measured, plain = tmp_path / "measured", tmp_path / "plain"
    main(["fit", "--config", str(tiny_config), "--run_dir", str(measured), "--minutes", "0.2"])
    schedule = "{class_path: src.engine.schedules.LateLR, init_args: {total_iters: 5}}"
    options = ["--trainer.max_steps", "5", "--model.g_scheduler", schedule, "--model.d_scheduler", schedule]
    main(["fit", "--config", str(tiny_config), "--run_dir", str(plain), *options])
    assert equal(weights(measured), weights(plain))


def slowed(measure):
    """The real measurement, whose result is that of another machine."""

    def measured(*args):
        seconds, number, lacking = measure(*args)
        assert seconds > 0 and number >= 1
        return STEP, number, lacking

    return measured


def test_a_schedule_as_long_as_the_run_stays_so(on_a_slow_machine, tiny_config, tmp_path, caplog):
    half = "{class_path: LinearLR, init_args: {start_factor: 0.1, total_iters: 2}}"
    whole = "{class_path: PolynomialLR, init_args: {total_iters: 4}}"
    options = ["--model.g_scheduler", half, "--model.d_scheduler", whole, "--model.metrics", "null"]
    main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--minutes", "0.3", *options])
    assert "total_iters of d_scheduler 4 -> 9" in caplog.text and "g_scheduler" not in caplog.text
    config = config_of(tmp_path / "run")
    assert config["model"]["g_scheduler"]["init_args"]["total_iters"] == 2
    assert config["model"]["d_scheduler"]["init_args"]["total_iters"] == config["trainer"]["max_steps"] == 9
    assert config["trainer"]["val_check_interval"] == 3  # no distance: cheap, so three times


@pytest.mark.parametrize(
    ("pace", "before", "steps", "every"), [((2.0,), 57, 27, 9), ((0.5,), 57, 114, 38), ((0.5, 8, 2.0), 27, 90, 9)]
)
def test_the_end_moves_to_where_the_pace_leads(tiny_config, tmp_path, caplog, monkeypatch, pace, before, steps, every):
    machine(monkeypatch, 1.0, *pace)
    run, again = tmp_path / "run", tmp_path / "again"
    options = ["--model.metrics", "null", "--trainer.callbacks+=LastCheckpoint"]
    main(["fit", "--config", str(tiny_config), "--run_dir", str(run), "--minutes", "1", *options])
    assert f"{steps} steps in place of {before}, at the pace of the last" in caplog.text
    config = config_of(run)
    assert config["trainer"]["max_steps"] == steps and config["trainer"]["val_check_interval"] == every
    assert config["model"]["d_scheduler"]["init_args"]["total_iters"] == steps
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert yaml.safe_load(saved["config"]) == config and saved["global_step"] == steps
    assert saved["lr_schedulers"][0]["total_iters"] == steps
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    monkeypatch.undo()
    main(["fit", "--config", str(run / "config.yaml"), "--run_dir", str(again)])
    assert equal(weights(run), weights(again))


def test_a_schedule_of_the_user_holds_the_end_where_it_was(tiny_config, tmp_path, caplog, monkeypatch):
    machine(monkeypatch, 1.0, 2.0)
    whole = "{class_path: PolynomialLR, init_args: {total_iters: 4}}"
    options = ["--model.d_scheduler", whole, "--model.metrics", "null"]
    main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--minutes", "1", *options])
    assert "27 steps would fit; it stays at 57, since d_scheduler is as long as that" in caplog.text
    assert "in place of" not in caplog.text and config_of(tmp_path / "run")["trainer"]["max_steps"] == 57
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 30  # a minute


def test_steps_are_measured_in_whole_rounds_of_penalties(tmp_path, monkeypatch):
    monkeypatch.setattr(minutes, "MEASURED", 0.0)
    gan = make_gan(regularizers=[R1(0.1, every=4), R1(0.1, every=6)])
    seconds, measured, lacking = minutes.measure(gan, Squares(), {"accelerator": "cpu"})
    assert measured == 12 and seconds > 0 and not lacking
    assert gan.global_step == 24


def test_time_that_is_over_ends_training(tmp_path):
    limit = minutes.TimeLimit(0.3 / 60)
    trainer = make_trainer(tmp_path, max_steps=10**6, callbacks=[limit])
    start = time.monotonic()
    trainer.fit(make_gan(), datamodule=Squares())
    assert time.monotonic() - start >= 0.3
    assert 0 < trainer.global_step < 10**6
    assert f"0.005 minutes are over, {10**6 - trainer.global_step:,} steps short" in limit.stopping_reason_message


def test_a_run_that_goes_on_keeps_its_plan(on_a_slow_machine, tiny_config, tmp_path, caplog, monkeypatch):
    command = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--minutes", "0.2", "--resume"]
    monkeypatch.setattr(minutes.TimeLimit, "on_train_batch_end", after_two_steps)
    main(command)
    monkeypatch.undo()
    monkeypatch.setattr(minutes, "measure", None)  # not asked
    main(command)
    assert "--minutes 0.2: of the 5 steps that the run has" in caplog.text
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def after_two_steps(self, trainer, *_):
    trainer.should_stop = trainer.global_step == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--minutes", "0.02"], "too short for one"),
        (["--minutes", "0"], "minutes"),
        (["--minutes", "1", "--trainer.max_steps", "9"], "plans what --trainer.max_steps says"),
        (["--minutes=1", "--trainer.max_steps=9"], "plans what --trainer.max_steps says"),
        (["--minutes", "1", "--trainer.val_check_interval", "9"], "plans what --trainer.val_check_interval says"),
    ],
)
def test_what_cannot_be_planned_is_refused(on_a_slow_machine, tiny_config, tmp_path, capsys, options, said):
    command = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), *options]
    assert said in refusal(command, capsys)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(tiny_config, tmp_path, capsys):
    command = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--minutes", "1"]
    assert "--trainer.devices 1" in refusal([*command, "--trainer.devices", "2"], capsys)
