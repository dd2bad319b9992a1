"""Going on with other options: what is said is honoured or refused, and what is not said stays as it was in the run."""

import csv
import logging
import re
import time

import pytest
import torch
import yaml
from conftest import refusal

from src.cli import main
from src.commands.first import spelled
from src.commands.going_on import changes, is_exact
from src.engine.paths import near
from src.gan import GAN

NOT_THE_SAME = "not bit by bit"


@pytest.fixture
def going_on(run, tiny_config, caplog):
    """Resumes the run of `tiny_config` for two steps, with options; returns the command and what it said."""

    def resumed(*options, steps=6):
        caplog.clear()
        arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(run), "--resume"]
        cli = main([*arguments, "--trainer.max_steps", str(steps), *options])
        return cli, " ".join(record.getMessage() for record in caplog.records)

    return resumed


def files(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_options_of_an_optimizer_win_over_its_state_in_the_checkpoint(run, going_on):
    moments = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    options = ["--model.g_optimizer.lr", "0.001", "--model.g_optimizer.betas", "[0.1,0.9]"]
    cli, said = going_on(*options, "--model.d_optimizer.weight_decay", "0.5")
    g, d = (optimizer.param_groups[0] for optimizer in cli.trainer.optimizers)
    assert (g["lr"], tuple(g["betas"]), g["weight_decay"]) == (0.001, (0.1, 0.9), 0)
    assert (d["lr"], tuple(d["betas"]), d["weight_decay"]) == (0.0002, (0.5, 0.999), 0.5)
    for state, optimizer in zip(
        moments, cli.trainer.optimizers, strict=True
    ):  # the moments went on, and did not restart
        steps = [int(values["step"]) for values in optimizer.state_dict()["state"].values()]
        assert steps == [int(values["step"]) + 2 for values in state["state"].values()]
    assert "model.g_optimizer.lr 0.0002 -> 0.001" in said and "model.d_optimizer.weight_decay 0.0 -> 0.5" in said
    assert NOT_THE_SAME in said
    kept = yaml.safe_load((run / "config.yaml").read_text())["model"]["g_optimizer"]["init_args"]
    assert kept["lr"] == 0.001


def test_what_is_not_said_stays_as_it_was_the_trainer_included(tiny_config, tmp_path, caplog):
    run = tmp_path / "run"
    first = ["fit", "--config", str(tiny_config), "--run_dir", str(run), "--model.g_optimizer.lr", "0.01"]
    main([*first, "--trainer.precision", "bf16-mixed", "--trainer.num_sanity_val_steps", "1"])
    last = str(run / "checkpoints" / "last.ckpt")
    for steps, arguments in (
        ("5", ["--config", str(tiny_config), "--run_dir", str(run), "--resume"]),
        ("6", ["--run_dir", str(run), "--resume"]),
        ("7", ["--ckpt_path", last]),
        ("8", ["--ckpt_path", last, "--run_dir", str(tmp_path / "other")]),
    ):
        caplog.clear()
        cli = main(["fit", *arguments, "--trainer.max_steps", steps])
        assert cli.trainer.global_step == int(steps)
        assert (cli.trainer.precision, cli.trainer.num_sanity_val_steps) == ("bf16-mixed", 1)
        assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0.01
        assert NOT_THE_SAME not in caplog.text
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["ckpt_path"] is None and not config["resume"]  # it tells how the whole run is made again


def test_a_configuration_that_was_edited_counts_as_said(run, tiny_config, going_on):
    edited = yaml.safe_load(tiny_config.read_text())
    edited["model"]["loss"] = "src.objectives.losses.Hinge"
    tiny_config.write_text(yaml.safe_dump(edited))
    cli, said = going_on()
    assert type(cli.model.loss).__name__ == "Hinge" and "model.loss NonSaturating -> Hinge" in said


def test_a_schedule_is_that_of_today_at_the_step_that_is_reached(going_on):
    step = ["--model.g_scheduler", "torch.optim.lr_scheduler.ExponentialLR", "--model.g_scheduler.gamma"]
    rate = lambda cli: cli.trainer.optimizers[0].param_groups[0]["lr"]  # noqa: E731
    cli, _ = going_on(*step, "0.5")  # from a run without one
    assert rate(cli) == pytest.approx(2e-4 * 0.5**6)
    cli, _ = going_on("--model.g_optimizer.lr", "0.1", steps=7)
    assert rate(cli) == pytest.approx(0.1 * 0.5**7)
    cli, said = going_on(*step, "0.9", steps=8)
    assert rate(cli) == pytest.approx(0.1 * 0.9**8) and "model.g_scheduler.gamma 0.5 -> 0.9" in said
    cli, _ = going_on("--model.g_scheduler", "null", steps=9)
    assert rate(cli) == 0.1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--model.d_optimizer SGD", ["Adam -> SGD", "exp_avg"]),
        ("--model.d_optimizer RMSprop", ["Adam -> RMSprop", "square_avg"]),
        ("--model.d_optimizer.amsgrad true", ["amsgrad False -> True", "max_exp_avg_sq"]),
        ("--model.ema null", ["another architecture", "generator_ema"]),
        ("--model.generator.hidden [9]", ["another architecture"]),
        ("--seed_everything false", ["seed_everything"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_is_written(options, expected, run, tiny_config, capsys):
    before = files(run)
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(run), "--resume", "--trainer.max_steps", "6"]
    message = refusal([*arguments, *options.split()], capsys)
    assert all(word in message for word in expected)
    assert files(run) == before


def test_an_optimizer_with_the_same_state_is_honoured(going_on):
    cli, said = going_on("--model.d_optimizer", "AdamW", "--model.d_optimizer.fused", "false")
    assert type(cli.trainer.optimizers[1]) is torch.optim.AdamW and "model.d_optimizer Adam -> AdamW" in said


def test_only_what_touches_the_mathematics_is_said_to_change_the_run(going_on):
    cli, said = going_on("--model.val_images", "50", "--trainer.val_check_interval", "3")
    assert "trainer.val_check_interval 2 -> 3" in said and "model.val_images 100 -> 50" in said
    assert NOT_THE_SAME not in said
    assert NOT_THE_SAME in going_on("--data.flip", "true", steps=7)[1]
    assert "all 7 steps are done" in going_on("--data.flip", "true", steps=7)[1]


def test_learning_rates_keep_their_names_when_a_checkpoint_of_yesterday_goes_on(run, going_on):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for state in checkpoint["optimizer_states"]:
        del state["param_groups"][0]["name"]
    torch.save(checkpoint, run / "checkpoints" / "last.ckpt")
    cli, _ = going_on("--trainer.callbacks+", "LearningRateMonitor", steps=5)
    assert {"lr-Adam/generator", "lr-Adam-1/discriminator"} <= cli.trainer.callback_metrics.keys()


def test_what_is_left_of_max_time_is_said(going_on, caplog, monkeypatch):
    monkeypatch.setattr(GAN, "on_train_batch_end", lambda *_: time.sleep(1), raising=False)
    with caplog.at_level(logging.INFO):
        assert "max_time begins to count here" in going_on("--trainer.max_time", "00:00:02:00", steps=5)[1]
        _, said = going_on("--trainer.max_time", "00:00:02:00", steps=6)
    assert re.search(r"max_time counts what came before, too: 0:00:\d\d are over, 0:01:\d\d are left", said)


def test_paths_are_shown_without_dots(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert near(tmp_path / "here" / "run" / "a.ckpt") == near("run/a.ckpt") == "run/a.ckpt"
    assert near("../run/a.ckpt") == str(tmp_path / "run" / "a.ckpt")


def test_differences_of_configurations():
    r1 = {"class_path": "src.R1", "init_args": {"weight": 1.0, "every": 4}}
    heavier = r1 | {"init_args": {"weight": 2.0, "every": 4}}
    old, new = {"regularizers": [r1], "betas": [0.5, 0.9]}, {"regularizers": [heavier], "betas": [0.0, 0.9]}
    found = {"model.regularizers.0.weight": (1.0, 2.0), "model.betas": ([0.5, 0.9], [0.0, 0.9])}
    assert changes({"model": old, "run_dir": "a"}, {"model": new, "run_dir": "b"}) == found
    assert changes({"model": {"regularizers": []}}, {"model": {"regularizers": [r1]}}).keys() == {"model.regularizers"}
    assert is_exact("trainer.max_steps") and is_exact("model.metrics.0.extractor") and is_exact("data.num_workers")
    assert not any(map(is_exact, ("trainer.precision", "model.loss", "data.batch_size", "seed_everything")))


def test_a_list_that_is_appended_to_is_the_same_after_the_same_command(tiny_config, tmp_path, caplog):
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--resume"]
    arguments += ["--model.regularizers+=R1", "--model.regularizers.weight=2", "--trainer.callbacks+=LastCheckpoint"]
    for steps in ("2", "4"):
        cli = main([*arguments, "--trainer.callbacks.every_n_steps=2", "--trainer.max_steps", steps])
    assert [regularizer.weight for regularizer in cli.model.regularizers] == [2]
    assert NOT_THE_SAME not in caplog.text


# --------------------------------------------------------------------------------------------------------- seeds


def test_a_seed_that_is_drawn_is_the_one_that_is_used_and_recorded(tiny_config, tmp_path):
    seeds = set()
    for name in ("a", "b"):
        arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / name), "--resume"]
        arguments += ["--seed_everything", "true"]
        for steps in ("2", "3"):  # the second one goes on, with the same seed
            cli = main([*arguments, "--trainer.max_steps", steps])
            recorded = yaml.safe_load((tmp_path / name / "config.yaml").read_text())["seed_everything"]
            assert type(recorded) is int and cli.model.seed == recorded
            seeds.add(recorded)
    assert len(seeds) == 2


# ----------------------------------------------------------------------------------------------------- essentials


def kinds(cli):
    return [type(callback).__name__ for callback in cli.trainer.callbacks]


def test_naming_a_callback_does_not_lose_what_a_run_needs(tiny_config, tmp_path, caplog):
    run = tmp_path / "run"
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(run)]
    arguments += ["--trainer.callbacks", "LearningRateMonitor", "--trainer.plugins", "LightningEnvironment"]
    cli = main(arguments)
    assert kinds(cli)[-4:-1] == ["StepBar", "BestCheckpoint", "LastCheckpoint"] and "KeepConfig" in kinds(cli)
    assert type(cli.trainer.strategy.checkpoint_io).__name__ == "AtomicCheckpointIO"
    assert (run / "checkpoints/last.ckpt").exists() and (run / "checkpoints/best.ckpt").exists()
    assert "without SampleGrid, " in caplog.text and "trainer.callbacks+" in caplog.text


def test_an_essential_that_is_named_takes_the_place_of_the_usual_one(tiny_config, tmp_path):
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")]
    cli = main([*arguments, "--trainer.callbacks+=LastCheckpoint", "--trainer.callbacks.every_n_steps=1"])
    assert kinds(cli).count("LastCheckpoint") == 1 and cli.trainer.callbacks[-2].every_n_steps == 1
    assert "SampleGrid" in kinds(cli)


def test_bar_and_checkpoints_can_be_switched_off(tiny_config, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(run)]
    cli = main([*arguments, "--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"])
    assert not {"StepBar", "BestCheckpoint", "LastCheckpoint"} & set(kinds(cli))
    assert "cannot be resumed" in caplog.text and "Try next" not in capsys.readouterr().out
    assert not (run / "checkpoints").exists()
    first = (run / "metrics.csv").read_text()
    main([*arguments, "--resume", "--trainer.max_steps", "2"])  # begins anew, and says so
    assert "metrics-1.csv" in caplog.text and (run / "metrics-1.csv").read_text() == first
    with open(run / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]


def test_another_way_to_write_checkpoints_is_refused(tiny_config, tmp_path, capsys):
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")]
    assert "AtomicCheckpointIO" in refusal([*arguments, "--trainer.plugins", "AsyncCheckpointIO"], capsys)


# ---------------------------------------------------------------------------------------------- numbers and sweeps


@pytest.mark.parametrize(("given", "batches"), [("1", [1]), ("1.0", [2]), ("0.5", [1]), ("2", [2]), ("0", [])])
def test_a_limit_of_one_batch_is_one_batch_and_not_all(given, batches, tiny_config, tmp_path):
    tiny = yaml.safe_load(tiny_config.read_text())
    tiny["trainer"]["limit_val_batches"] = yaml.safe_load(given)
    tiny_config.write_text(yaml.safe_dump(tiny))
    for options in ([], ["--trainer.limit_val_batches", given]):
        arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / f"run{len(options)}")]
        assert main([*arguments, "--trainer.max_steps", "2", *options]).trainer.num_val_batches == batches


@pytest.mark.parametrize("limit", ["train", "test", "predict"])
def test_the_other_limits_keep_their_type(limit, tiny_config, capsys):
    for given, expected in (("1", "1"), ("1.0", "1.0")):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(tiny_config), f"--trainer.limit_{limit}_batches={given}", "--print_config"])
        assert f"limit_{limit}_batches: {expected}\n" in capsys.readouterr().out


def test_sweeps_may_write_python(tiny_config, tmp_path):
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--resume", "True"]
    arguments += ["--model.ema=None", "--model.g_clip", "None", "--data.flip=True", "--model.d_clip=1e-3"]
    cli = main(arguments)
    assert (cli.model.ema, cli.model.clips, cli.datamodule.flip) == (None, (None, 0.001), True)
    assert main([*arguments, "--resume=False", "--run_dir", str(tmp_path / "other")]).run.resume is False


def test_resume_is_a_flag_with_or_without_a_value():
    assert spelled(["--resume", "--run_dir", "a"]) == ["--resume=true", "--run_dir", "a"]
    assert spelled(["--run_dir", "a", "--resume"]) == ["--run_dir", "a", "--resume=true"]
    for value in ("true", "False"):
        assert spelled(["--resume", value]) == ["--resume", value]
    assert spelled([]) == []
