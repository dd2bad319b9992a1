"""Pictures, curves and the other things that a run leaves."""

import csv

import numpy as np
import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer
from PIL import Image

from src.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint
from src.callbacks.pictures import SampleGrid, grid, to_image
from src.data.requests import Requests
from src.loggers import CSV, WandB
from src.networks import mlp


def test_a_grid_places_images_row_by_row():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 5)
    sheet = np.asarray(grid(images, columns=3, least_size=8, gap=1))
    assert sheet.shape == (2 * 8 + 1, 3 * 10 + 2)
    assert [sheet[4, 5], sheet[4, 16], sheet[4, 27], sheet[12, 5], sheet[12, 27]] == [0, 1, 2, 3, 5]
    assert sheet[8, 5] == sheet[4, 10] == 255


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA"), (7, "L")])
def test_pictures_of_any_number_of_channels(channels, mode):
    pixels = torch.randint(0, 256, (channels, 5, 6), dtype=torch.uint8)
    picture = to_image(pixels)
    assert (picture.mode, picture.size) == (mode, (6, 5))
    assert np.array_equal(np.asarray(picture).reshape(5, 6, -1)[..., 0], pixels[0])


def test_sample_grids_follow_the_run(tmp_path):
    gan = make_gan(num_classes=2)
    fit(tmp_path, gan, Squares(labels=True), max_steps=5, callbacks=[SampleGrid(every_n_steps=2, num_images=20)])
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["real.png", "step-00000002.png", "step-00000004.png", "step-00000005.png"]
    expected = grid((gan.sample(torch.arange(20), torch.arange(20) % 2) * 127.5 + 127.5).round().to(torch.uint8), 2)
    with Image.open(tmp_path / "samples" / "step-00000005.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_drawing_a_grid_does_not_change_the_training(tmp_path):
    states = []
    for callbacks in ([], [SampleGrid(every_n_steps=1)], [LastCheckpoint(every_n_steps=1)]):
        options = {"callbacks": callbacks, "enable_checkpointing": len(callbacks) > 0}
        torch.manual_seed(0)
        generator = mlp.Generator((4, 4), 1, latent_dim=4, hidden=(8,), batch_norm=True)
        states.append(fit(tmp_path, make_gan(generator=generator), max_steps=4, **options).state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[key], states[0][key]) for key in state)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_gives_each_step_one_row(tmp_path):
    log = CSV(str(tmp_path))
    log.log_metrics({"a": 1.0, "epoch": 0}, step=1)
    log.log_metrics({"a": 2.0}, step=2)
    assert read(tmp_path / "metrics.csv")[-1] == {"step": "2", "a": "2.0"}  # on disk at once
    log.log_metrics({"b": 3.0}, step=2)
    log.log_metrics({"a": 4.0}, step=3)
    log.log_metrics({"b": 5.0}, step=3)
    expected = [{"step": "1", "a": "1.0", "b": ""}, {"step": "2", "a": "2.0", "b": "3.0"}]
    assert read(tmp_path / "metrics.csv") == [*expected, {"step": "3", "a": "4.0", "b": "5.0"}]


def test_csv_resumes_without_repeating_a_step(tmp_path):
    log = CSV(str(tmp_path))
    for step in (1, 2, 3):
        log.log_metrics({"a": step}, step=step)
    again = CSV(str(tmp_path))
    again.resume(1)
    again.log_metrics({"a": 20}, step=2)
    again.log_metrics({"a": 30}, step=3)
    again.log_metrics({"c": 40}, step=4)
    assert [(row["step"], row["a"], row["c"]) for row in read(tmp_path / "metrics.csv")] == [
        ("1", "1", ""), ("2", "20", ""), ("3", "30", ""), ("4", "", "40"),
    ]  # fmt: skip


def test_steps_that_do_not_log_compute_nothing_for_the_log(tmp_path, monkeypatch):
    norms = []
    original = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda *args: norms.append(1) or original(*args))
    logged = []
    gan = make_gan()
    monkeypatch.setattr(gan, "log_curves", lambda *_: logged.append(dict(gan.curves)))
    fit(tmp_path, gan, max_steps=10, log_every_n_steps=5)
    assert len(logged) == 2 and len(norms) == 4


def test_wandb_is_online_only_with_an_account(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert WandB().offline
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert not WandB().offline
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert not WandB().offline
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandB().offline


def test_checkpoints_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    monkeypatch.setattr("src.callbacks.checkpoints.torch.save", lambda _, file: file.write(b"half") and 1 / 0)
    with pytest.raises(OSError, match="could not be written"):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, path)
    assert torch.load(path, weights_only=True) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_requests_take_turns_among_the_classes():
    requests = Requests((4, 4), 1, num_classes=3, class_names=["cat", "dog", "2"])
    requests.ask(5, None, 2)
    assert requests.conditions(torch.arange(5)).tolist() == [0, 1, 2, 0, 1]
    requests.ask(5, "dog, 0", 2)
    assert requests.conditions(torch.arange(5)).tolist() == [1, 0, 1, 0, 1]
    for wrong in ("bird", "3", "-1"):
        with pytest.raises(ValueError, match="there are 3, 0 to 2, named cat, dog, 2"):
            requests.ask(5, wrong, 2)


@pytest.mark.parametrize("max_steps", [3, -1])
def test_the_progress_bar_counts_steps(tmp_path, max_steps):
    from src.callbacks.progress import StepBar

    bar = StepBar(refresh_rate=1)
    options = {"max_steps": max_steps, "max_time": {"seconds": 1}, "callbacks": [bar], "enable_progress_bar": True}
    trainer = make_trainer(tmp_path, **options)
    trainer.fit(make_gan(), datamodule=Squares())
    if max_steps > 0:
        assert (bar.train_progress_bar.n, bar.train_progress_bar.total) == (3, 3)
