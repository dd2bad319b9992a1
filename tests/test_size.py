"""The size of a folder's images where none is said: what the files allow and the time suffices for."""

from types import SimpleNamespace

import pytest
import yaml
from conftest import write_images
from PIL import Image

from src.cli import main
from src.commands import minutes, size
from src.data.folder import file_sizes


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        ([(28, 28)], [(28, 28)]),  # digits: a grid of 7x7
        ([(128, 128)], [(32, 32), (64, 64), (128, 128)]),
        ([(96, 64)], [(48, 32), (96, 64)]),
        ([(100, 100)], [(32, 32), (64, 64)]),  # 100 can be halved but twice
        ([(480, 640)], [(32, 32), (64, 64), (128, 128), (256, 256)]),
        ([(16, 16), (48, 40), (512, 512)], [(32, 32)]),  # within half of the images
        ([(20, 31), (31, 20)], [(16, 16)]),
        ([(7, 7)], [(4, 4)]),  # 7 cannot be halved
    ],
)
def test_sizes_are_those_of_the_files_and_their_halves(monkeypatch, files, sizes):
    monkeypatch.setattr(size, "file_sizes", lambda *_: files)
    assert size.candidates(Run()) == sizes


class Run:
    """Options of `fit` with as much as there is of them here."""

    class data:
        class init_args:
            root, splits, image_size = "", True, None


@pytest.mark.parametrize(
    ("steps", "chosen", "said"),
    [
        ({32: 5_999}, 32, "32x32, since 64x64 takes 6,000 steps and at most 5,999 fit; "),  # there is no need to ask
        ({32: 9_000, 64: 5_000}, 32, "32x32, since 64x64 takes 6,000 steps and at most 5,000 fit; "),
        ({32: 50_000, 64: 12_500, 128: 3_100}, 64, "64x64, since 128x128 takes 12,000 steps and at most 3,100 fit; "),
        ({32: 9_000, 64: 8_000}, 64, "64x64, since 128x128 takes 12,000 steps and at most 8,000 fit; "),
        ({32: 90_000, 64: 80_000, 128: 70_000}, 128, "128x128; "),
    ],
)
def test_the_largest_size_that_there_is_time_for(monkeypatch, steps, chosen, said):
    monkeypatch.setattr(size, "file_sizes", lambda *_: [(128, 128)])
    run = Run()

    def measured():
        return size.Measured(steps[run.data.init_args.image_size], 1.0, 8, False, 32)

    found, told = size.by_time(run, measured)
    assert run.data.init_args.image_size == chosen
    assert told == f"data.image_size {said}"
    assert found.steps == steps[chosen]


@pytest.fixture
def of_a_folder(tmp_path, tiny_config):
    """The arguments of `fit` for images of 64x64, whose size is not said."""
    write_images(tmp_path / "images", 64, 1)
    data = ["--data", "ImageFolder", "--data.root", str(tmp_path / "images"), "--data.cache_dir", str(tmp_path / "c")]
    options = ["--model.metrics", "null", "--trainer.callbacks", "[]", "--run_dir", str(tmp_path / "run")]
    return ["fit", "--config", str(tiny_config), *data, *options]


def test_fit_measures_and_writes_the_size_down(of_a_folder, tmp_path, caplog, monkeypatch):
    seconds = {32: 0.0001, 64: 0.0008}
    monkeypatch.setattr(minutes, "measure", lambda _, data, __: (seconds[data.image_size[0]], 8, False))
    monkeypatch.setattr(size, "STEPS", 4)
    main([*of_a_folder, "--minutes", "0.0001"])
    assert "--minutes 0.0001: data.image_size 32x32, since 64x64 takes 8 steps and" in caplog.text
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["init_args"]["image_size"] == 32


def test_without_minutes_the_machine_decides_and_one_process_says_so(of_a_folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(size, "AT_MOST", {False: 32, True: 64})
    main([*of_a_folder, "--trainer.accelerator", "cpu"])
    assert "data.image_size 32 of up to 64x64: with --minutes" in caplog.text
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["init_args"]["image_size"] == 32


def test_the_same_command_goes_on_with_what_the_run_decided(tmp_path, tiny_config, caplog, monkeypatch):
    write_images(tmp_path / "images", 64, 1)
    config = yaml.safe_load(tiny_config.read_text())
    decides = {"root": str(tmp_path / "images"), "cache_dir": str(tmp_path / "c"), "image_size": None, "flip": None}
    config["data"] = {"class_path": "src.data.folder.ImageFolder", "init_args": decides}
    config["model"]["metrics"] = None
    tiny_config.write_text(yaml.safe_dump(config))
    command = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu"]
    monkeypatch.setattr(size, "AT_MOST", {False: 32, True: 64})
    main([*command, "--data.flip", "false"])  # one image says nothing: it would be mirrored
    monkeypatch.setattr(size, "AT_MOST", {False: 64, True: 64})
    cli = main([*command, "--resume", "--trainer.max_steps", "7"])
    assert (cli.datamodule.image_size, cli.datamodule.flip) == ((32, 32), False)
    assert "going on from step" in caplog.text and "data." not in caplog.text.split("going on from step")[1]
    cli = main([*command, "--resume", "--trainer.max_steps", "8", "--data.flip", "true"])  # what is said counts
    assert cli.datamodule.flip and "data.flip False -> True" in caplog.text


def test_a_size_that_is_all_there_is_asks_for_no_time(monkeypatch):
    monkeypatch.setattr(size, "file_sizes", lambda *_: [(16, 16)])
    run = Run()
    run.trainer = SimpleNamespace(accelerator="cpu")
    assert size.by_machine(run) == "data.image_size 16"


def test_a_size_that_is_said_stays(of_a_folder, tmp_path, caplog):
    main([*of_a_folder, "--data.image_size", "[16,8]"])
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["init_args"]["image_size"] == [16, 8]
    assert "data.image_size" not in caplog.text


def test_only_training_images_are_looked_at(tmp_path):
    for part, side in (("train", 8), ("test", 16)):
        (tmp_path / part).mkdir()
        Image.new("L", (side, side)).save(tmp_path / part / "0.png")
    assert file_sizes(str(tmp_path)) == [(8, 8)]
