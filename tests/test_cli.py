"""The command line as a user types it."""

import csv
import json
import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import refusal
from PIL import Image

from src.callbacks.pictures import grid
from src.cli import fail, load, main
from src.gan import GAN
from src.images.pixels import to_uint8

update = GAN.update_generator


def last(run):
    return str(run / "checkpoints" / "last.ckpt")


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


# ------------------------------------------------------------------------------------------------------- a run


def test_everything_of_a_run_lies_in_its_folder(run):
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert found == {
        "config.yaml", "metrics.csv", "report.png", "report.html", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
        "samples/real.png", "samples/step-00000000.png", "samples/step-00000004.png", "samples/latest.png",
        "samples/training.gif",
    }  # fmt: skip


def test_curves_count_generator_updates(run):
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [int(float(row["images_seen"])) for row in rows] == [8, 16, 24, 32]
    short, distance, error = sorted(name for name in rows[0] if name.startswith("val/"))
    assert short == "val/fcd" and error == f"{distance}-error"
    assert [bool(row[distance]) for row in rows] == [bool(row[error]) for row in rows] == [False, True, False, True]
    wanted = {"loss/generator", "loss/discriminator", "logits/real", "logits/fake", "grad_norm/generator"}
    wanted |= {"grad_norm/discriminator", "lr/generator", "lr/discriminator", "images_per_second"}
    assert all(np.isfinite(float(row[name])) for row in rows for name in wanted)


def test_the_saved_config_gives_the_same_weights(run, tmp_path):
    main(["fit", "--config", str(run / "config.yaml"), "--run_dir", str(tmp_path / "again")])
    assert equal(state(last(run)), state(last(tmp_path / "again")))


def test_another_seed_gives_other_weights(run, tmp_path):
    main(["fit", "--config", str(run / "config.yaml"), "--run_dir", str(tmp_path / "b"), "--seed_everything", "1"])
    assert not equal(state(last(run)), state(last(tmp_path / "b")))


def test_a_second_fit_into_the_folder_refuses(run, tiny_config, capsys):
    before = state(last(run))
    message = refusal(["fit", "--config", str(tiny_config), "--run_dir", str(run)], capsys)
    assert "already holds a run" in message and "--resume" in message
    assert equal(state(last(run)), before)


def test_the_folder_is_named_after_the_config(tiny_config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", str(tiny_config), "--trainer.max_steps", "2"])
    assert (tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt").is_file()


def test_resuming_continues_to_the_same_weights(run, tiny_config, tmp_path):
    part = tmp_path / "part"
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(part), "--resume"]
    main([*arguments, "--trainer.max_steps", "3"])  # an empty folder: it starts
    main(arguments)
    assert torch.load(last(part), weights_only=True)["global_step"] == 4
    assert equal(state(last(run)), state(last(part)))
    rows = (part / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "4"]


def test_the_best_checkpoint_is_that_of_the_lowest_distance(tiny_config, tmp_path, monkeypatch):
    distances = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("src.metrics.base.NARROW", 0)  # no errors, whose distances are others
    monkeypatch.setattr("src.metrics.fid.FrechetDistance.values", lambda self, real, fake: [next(distances)])
    run = tmp_path / "best"
    main(["fit", "--config", str(tiny_config), "--run_dir", str(run), "--trainer.max_steps", "6"])
    steps = [
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("best", "last")
    ]
    assert steps == [4, 6]


def test_checkpoints_hold_both_networks_and_nothing_of_a_metric(run):
    prefixes = {key.split(".")[0] for key in state(last(run))}
    assert prefixes == {"generator", "discriminator", "generator_ema"}


# ------------------------------------------------------------------------------------- checkpoint in, result out


def test_test_needs_only_the_checkpoint(run, capsys):
    main(["test", "--ckpt_path", last(run)])
    record = json.loads((run / "metrics.json").read_text())
    result, *_ = record["results"]
    protocol = result["protocol"]
    assert result["name"].startswith("fcd-digits-") and result["value"] > 0
    assert (protocol["num_real"], protocol["num_fake"], protocol["split"], protocol["step"]) == (1437, 150, "train", 4)
    assert protocol["extractor"]["resize"] and len(protocol["extractor"]["weights_hash"]) == 64
    assert f"= {result['value']:.4f}" in capsys.readouterr().out


def test_test_writes_where_run_dir_says(run, tmp_path):
    main(["test", "--ckpt_path", last(run), "--run_dir", str(tmp_path / "elsewhere")])
    assert (tmp_path / "elsewhere" / "metrics.json").is_file() and not (run / "metrics.json").exists()


def test_the_command_line_wins_over_the_checkpoint(run):
    main(["test", "--ckpt_path", last(run), "--model.test_images", "120"])
    protocol = json.loads((run / "metrics.json").read_text())["results"][0]["protocol"]
    assert protocol["num_fake"] == 120


def test_the_command_line_wins_when_resuming(run):
    cli = main(
        ["fit", "--ckpt_path", last(run), "--run_dir", str(run), "--trainer.max_steps", "5", "--model.d_steps", "2"]
    )
    assert cli.model.d_steps == 2 and cli.trainer.global_step == 5


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_evaluation_without_a_checkpoint_refuses(command, capsys):
    assert "--ckpt_path" in refusal([command], capsys)


def test_a_mended_weight_is_the_one_that_is_scored(run):
    """The averaged generator is what counts: ruining the other one changes nothing."""
    checkpoint = torch.load(last(run), weights_only=True)
    main(["test", "--ckpt_path", last(run)])
    before = json.loads((run / "metrics.json").read_text())["results"][0]["value"]
    for name, value in (("generator.", before), ("generator_ema.", None)):
        for key, tensor in checkpoint["state_dict"].items():
            if key.startswith(name):
                tensor.zero_()
        torch.save(checkpoint, run / "ruined.ckpt")
        main(["test", "--ckpt_path", str(run / "ruined.ckpt")])
        after = json.loads((run / "metrics.json").read_text())["results"][0]["value"]
        assert (after == before) == (value is not None)


def test_predict_needs_no_data_set(run, tmp_path, monkeypatch):
    def forbidden(*_):
        raise AssertionError("predict read the data set")

    monkeypatch.setattr("src.data.digits.Digits.load", forbidden)
    monkeypatch.chdir(tmp_path)
    main(["predict", "--ckpt_path", last(run), "--output", "out", "--num_images", "120"])
    out = tmp_path / "out"
    assert list(pictures(out)) == [f"{i:06d}.png" for i in range(120)]
    with Image.open(out / "images" / "000007.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    with Image.open(out / "grid.png") as picture:
        assert picture.size[0] >= 10 * 32 and picture.size[1] >= 10 * 32


def test_the_grid_of_predictions_names_the_classes(run, tmp_path):
    main(
        [
            "predict",
            "--ckpt_path",
            last(run),
            "--output",
            str(tmp_path / "out"),
            "--num_images",
            "6",
            "--classes",
            "7,3",
        ]
    )
    shown = torch.stack(
        [torch.from_numpy(np.array(Image.open(tmp_path / "out" / "images" / f"{i:06d}.png"))) for i in range(6)]
    )
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(grid(shown[:, None], 2, titles=["7", "3"])))


def test_predictions_depend_on_seed_number_and_class_alone(run, tmp_path):
    def predict(name, *options):
        main(["predict", "--ckpt_path", last(run), "--output", str(tmp_path / name), *options])
        return pictures(tmp_path / name)

    many, few = predict("a", "--num_images", "70"), predict("b", "--num_images", "30")
    assert few == dict(list(many.items())[:30])
    assert predict("c", "--num_images", "30", "--seed", "1") != few
    assert predict("d", "--num_images", "70", "--batch_size", "7") == many
    assert predict("e", "--num_images", "70", "--batch_size", "1") == many
    threes = predict("f", "--num_images", "30", "--classes", "3")
    assert [name for name in threes if threes[name] == few[name]] == ["000003.png", "000013.png", "000023.png"]


def test_a_checkpoint_loads_in_python(run, tmp_path):
    gan = load(last(run))
    images = to_uint8(gan.sample(torch.arange(12), torch.arange(12) % 10))
    main(["predict", "--ckpt_path", last(run), "--output", str(tmp_path / "out"), "--num_images", "12"])
    for i in range(12):
        with Image.open(tmp_path / "out" / "images" / f"{i:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), images[i, 0])
    with pytest.raises(ValueError, match="no checkpoint"):
        load(str(tmp_path / "none.ckpt"))


def test_exported_weights_stand_for_the_checkpoint_where_it_is_sampled_and_scored(run, tmp_path, capsys):
    weights = tmp_path / "deep" / "weights.safetensors"
    main(["export", "--ckpt_path", last(run), "--output", str(weights)])
    assert "step 4 of" in capsys.readouterr().out
    assert {path.name for path in weights.parent.iterdir()} == {weights.name, "README.md"}
    images, figures = [], []
    for number, path in enumerate((last(run), str(weights))):
        main(["predict", "--ckpt_path", path, "--output", str(tmp_path / str(number)), "--num_images", "12"])
        images.append(pictures(tmp_path / str(number)))
        main(["test", "--ckpt_path", path, "--run_dir", str(run)])
        figures.append(json.loads((run / "metrics.json").read_text())["results"])
    assert images[0] == images[1] and figures[0] == figures[1]
    assert "holds weights alone" in refusal(["fit", "--ckpt_path", str(weights), "--run_dir", "new"], capsys)
    wider = ["predict", "--ckpt_path", str(weights), "--model.generator.hidden", "[9]", "--output", str(tmp_path / "w")]
    assert "another architecture" in refusal(wider, capsys)


def test_going_on_from_a_checkpoint_elsewhere_touches_no_other_run(run, tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    on = ["fit", "--config", str(tiny_config), "--ckpt_path", last(run)]
    main([*on, "--trainer.max_steps", "6"])
    first = last(tmp_path / "runs" / "tiny")
    assert torch.load(first, weights_only=True)["global_step"] == 6
    assert "already holds a run" in refusal([*on, "--trainer.max_steps", "6"], capsys)
    seen = []
    monkeypatch.setattr(GAN, "update_generator", lambda *args: seen.append(args[-1]) or update(*args))
    main([*on, "--trainer.max_steps", "8", "--resume"])
    assert seen == [6, 7]  # from its own last checkpoint, not from the given one
    main(["fit", "--ckpt_path", first, "--trainer.max_steps", "9"])  # without a name it is the same run
    assert torch.load(first, weights_only=True)["global_step"] == 9 and not (tmp_path / "runs" / "None").exists()


def test_a_folder_with_something_in_it_is_not_written_into(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    assert "not empty" in refusal(["predict", "--ckpt_path", last(run), "--output", str(tmp_path / "out")], capsys)


# ------------------------------------------------------------------------------------------------------- loggers


def test_wandb_records_a_run_without_an_account_and_does_not_wait(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = tmp_path / "wandb-run"
    command = [sys.executable, "-m", "src", "fit", "--config", str(tiny_config), "--run_dir", str(run)]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--trainer.logger", "src.callbacks.loggers.WandB"], stdin=subprocess.DEVNULL, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wandb sync") == 1
    assert time.monotonic() - start < 60
    (record,) = run.glob("wandb/offline-run-*/run-*.wandb")
    text = record.read_bytes()
    for expected in (b"loss/generator", b"samples", b"images_seen", b"max_steps", b"best_checkpoint", b"weights_hash"):
        assert expected in text
    assert (run / "metrics.csv").is_file() and (run / "samples" / "step-00000004.png").is_file()


def test_figures_of_test_join_the_run_with_their_protocol(run, monkeypatch):
    from src.callbacks.loggers import WandB

    told = {}
    monkeypatch.setattr(WandB, "summarize", lambda self, values: told.update(values))
    tests = ["test", "--ckpt_path", last(run), "--trainer.logger", "src.callbacks.loggers.WandB"]
    main(tests)
    assert not told  # the run has no page
    (run / "wandb").mkdir()
    (run / "wandb" / "run_id").write_text("abc")
    main(tests)
    figure = json.loads((run / "metrics.json").read_text())["results"][0]
    assert told[f"test/{figure['name']}"] == figure["value"]
    assert told[f"test/{figure['name']}-protocol"] == figure["protocol"]


def test_training_outlives_wandb(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    from src.callbacks.loggers import WandB

    def broken(*args, **kwargs):
        raise BrokenPipeError("the service has gone")

    run = SimpleNamespace(dir=str(tmp_path), finish=broken, summary=SimpleNamespace(update=broken))
    log = WandB()
    log._experiment = run
    monkeypatch.setattr(WandbLogger, "log_metrics", broken)
    monkeypatch.setattr(WandB, "experiment", run)
    with pytest.warns(UserWarning, match="the service has gone.*metrics.csv") as said:
        log.log_metrics({"loss": 1.0}, step=1)
        log.log_metrics({"loss": 1.0}, step=2)
        log.summarize({"best": 1.0})
        log.finalize("success")
    assert len(said) == 1


def test_logger_false_starts_no_wandb_in_any_command(run, tmp_path, monkeypatch):
    assert not (run / "wandb").exists() and (run / "metrics.csv").is_file()

    def absent(*_, **__):
        raise ModuleNotFoundError("wandb")

    monkeypatch.setattr("src.callbacks.loggers.WandB.__init__", absent)
    for command in ("test", "validate", "predict"):
        main([command, "--ckpt_path", last(run)])
    load(last(run))


def test_figures_go_to_the_project_of_the_run(run):
    checkpoint = torch.load(last(run), weights_only=True)
    config = yaml.safe_load(checkpoint["config"])
    config["trainer"]["logger"] = {"class_path": "src.callbacks.loggers.WandB", "init_args": {"project": "mine"}}
    torch.save(checkpoint | {"config": yaml.safe_dump(config)}, run / "checkpoints" / "mine.ckpt")
    cli = main(["test", "--ckpt_path", str(run / "checkpoints" / "mine.ckpt")])
    assert [logger._wandb_init["project"] for logger in cli.wanted] == ["mine"]


# --------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", ["src.networks.dcgan.Generator", "src.networks.resnet.Generator"])
def test_the_help_of_a_class_is_its_docstring(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model.generator.help", name])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "num_blocks" in printed and "latent" in printed


def test_the_number_of_blocks_follows_the_images_and_stands_in_the_configuration(tiny_config, tmp_path, caplog):
    """Also of a checkpoint for other sizes: its networks keep the number that they were trained with."""
    family = "src.networks.fully_convolutional"
    options = ["--model.generator", f"{family}.Generator", "--model.discriminator", f"{family}.Discriminator"]
    options += ["--data.image_size", "20"]
    narrow = ["--model.generator.width", "4", "--model.discriminator.width", "4", "--trainer.max_steps", "1"]
    with caplog.at_level(logging.INFO):
        main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), *options, *narrow])
    line = "chosen for images of 20x20, see config.yaml: generator.num_blocks 2, discriminator.num_blocks 2"
    assert line in [record.getMessage() for record in caplog.records]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert [config["model"][player]["init_args"]["num_blocks"] for player in ("generator", "discriminator")] == [2, 2]
    gan = load(str(tmp_path / "run" / "checkpoints" / "last.ckpt"), "--data.image_size", "[64,64]")
    assert gan.generator.num_blocks == 2 and gan.sample(torch.arange(1), torch.arange(1)).shape[2:] == (64, 64)


def test_every_option_of_the_gan_appears_in_the_config(tiny_config, capsys):
    import inspect

    from src.gan import GAN

    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tiny_config), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    linked = {"seed"}
    assert set(config["model"]) == set(inspect.signature(GAN.__init__).parameters) - {"self"} - linked


# ------------------------------------------------------------------------------------------------------ refusals


R1 = "[{class_path: R1, init_args: {weight: 1}}]"
INCEPTION = "{class_path: src.metrics.features.Inception, init_args: {weights: none.pth}}"
BAD_INPUT = {
    "no class Hing": "--model.loss Hing",
    "no class Digitz": "--data Digitz",
    "--model.losss": "--model.losss Hinge",
    "max_steps": "--trainer.max_steps ten",
    "nearest 26x26 and 28x28": "--model.generator src.networks.dcgan.Generator --data.image_size 27",
    "does not exist": "--data ImageFolder --data.root nowhere",
    "no image": "--data ImageFolder --data.root .",
    "not divisible": "--data.batch_size 7 --model.accumulate 2",
    "follows the data": "--model.generator.channels 3",
    "d_steps must be": "--model.d_steps 0",
    "batch_norm": f"--model.discriminator.batch_norm true --model.regularizers|{R1}",
    "none.pth": f"--model.metrics|[{{class_path: FrechetDistance, init_args: {{extractor: {INCEPTION}}}}}]",
}


@pytest.mark.parametrize("expected", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(expected, tiny_config, tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    options = [word for part in BAD_INPUT[expected].split(" --") for word in part.replace("|", " ", 1).split(" ", 1)]
    options = [word if i % 2 else f"--{word.removeprefix('--')}" for i, word in enumerate(options)]
    message = refusal(["fit", "--config", str(tiny_config), "--run_dir", "none", *options], capsys)
    assert expected in message
    assert not (tmp_path / "work" / "none").exists()


def test_bad_files_and_commands_are_one_line(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("trainer: {max_steps: [1")
    assert "broken.yaml is not YAML" in refusal(["fit", "--config", str(tmp_path / "broken.yaml")], capsys)
    assert "does not exist" in refusal(["fit", "--config", str(tmp_path / "none.yaml")], capsys)
    assert "there is no checkpoint" in refusal(["predict", "--ckpt_path", str(tmp_path / "none.ckpt")], capsys)
    assert "'explode'" in refusal(["explode"], capsys)
    assert "model.generator" in refusal(["fit"], capsys)


def test_bad_checkpoints_are_one_line(run, tmp_path, capsys):
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    cut, foreign, script = tmp_path / "cut.ckpt", tmp_path / "foreign.ckpt", tmp_path / "evil.ckpt"
    cut.write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, foreign)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": Evil(), "config": "", "facts": {}}, script)
    assert "truncated" in refusal(["test", "--ckpt_path", str(cut)], capsys)
    assert "not written by this project" in refusal(["test", "--ckpt_path", str(foreign)], capsys)
    assert "not a readable checkpoint" in refusal(["test", "--ckpt_path", str(script)], capsys)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_architecture_is_refused(run, capsys):
    message = refusal(["predict", "--ckpt_path", last(run), "--model.generator.hidden", "[9]"], capsys)
    assert "another architecture" in message and "generator." in message


@pytest.mark.parametrize("classes", ["10", "cat", "3,,4"])
def test_a_class_that_does_not_exist_is_named(run, classes, capsys):
    assert "no class" in refusal(["predict", "--ckpt_path", last(run), "--classes", classes], capsys)


def test_classes_of_an_unconditional_model_are_refused(tiny_config, tmp_path, capsys):
    run = tmp_path / "plain"
    main(["fit", "--config", str(tiny_config), "--run_dir", str(run), "--data.labels", "false"])
    assert "unconditional" in refusal(["predict", "--ckpt_path", last(run), "--classes", "1"], capsys)


def test_a_channel_mismatch_is_refused(run, tmp_path, capsys):
    folder = tmp_path / "colour"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (i, 100, 200)).save(folder / name / f"{i}.png")
    arguments = ["test", "--ckpt_path", last(run), "--data", "ImageFolder", "--data.root", str(folder)]
    arguments += ["--data.cache_dir", str(tmp_path / "cache")]
    assert "another architecture" in refusal(arguments, capsys)


def test_a_full_disk_keeps_the_checkpoint_that_was_there(run, tmp_path, monkeypatch, capsys):
    import errno

    import src.callbacks.checkpoints as checkpoints

    before = (run / "checkpoints" / "last.ckpt").read_bytes()

    def full(checkpoint, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    fit = ["fit", "--ckpt_path", last(run), "--run_dir", str(run), "--trainer.max_steps", "8"]
    assert "could not be written" in refusal(fit, capsys)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list((run / "checkpoints").glob(".*"))


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        main(["test", "--ckpt_path", str(tmp_path / "none.ckpt"), "--debug"])


def test_messages_are_joined_to_one_line(capsys):
    with pytest.raises(SystemExit):
        fail("one\n  two")
    assert capsys.readouterr().err == "error: one two\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "src", "test"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.strip().startswith("error: test needs --ckpt_path")
    assert "Traceback" not in done.stderr
