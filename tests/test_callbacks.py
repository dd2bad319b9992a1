"""Pictures, curves and the other things that a run leaves."""

import csv
import http.server
import os
import re
import resource
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from conftest import Squares, fit, make_gan, make_trainer, refusal
from PIL import Image
from wandb.sdk.lib.service.service_connection import ServiceConnection

from src.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, KeepConfig, LastCheckpoint, newest_whole
from src.callbacks.loggers import CSV, WandB, obstacle
from src.callbacks.pictures import NearestImages, SampleGrid, class_titles, grid, to_image
from src.callbacks.progress import StepBar
from src.cli import main
from src.data.requests import Requests
from src.networks import mlp


def test_a_grid_places_images_row_by_row():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 4, 5)
    sheet = np.asarray(grid(images, columns=3, least_size=8, gap=1))
    assert sheet.shape == (2 * 8 + 1, 3 * 10 + 2)
    assert [sheet[4, 5], sheet[4, 16], sheet[4, 27], sheet[12, 5], sheet[12, 27]] == [0, 1, 2, 3, 5]
    assert sheet[8, 5] == sheet[4, 10] == 255


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_titles_stand_over_the_columns_and_leave_the_images_as_they_are(channels):
    images = torch.randint(0, 256, (6, channels, 8, 8), dtype=torch.uint8)
    plain = grid(images, columns=3)
    sheet = grid(images, columns=3, titles=["é", "an automobile", ""])
    height = sheet.height - plain.height
    assert sheet.mode == plain.mode and sheet.width == plain.width and 10 <= height <= 16
    assert np.array_equal(np.asarray(sheet)[height:], np.asarray(plain))
    dark = (np.asarray(sheet).reshape(sheet.height, sheet.width, -1)[:height, :, 0] < 128).any(0)
    where = np.flatnonzero(dark)
    assert dark[12:20].any() and not dark[:10].any()  # a short title: in the middle of the first 32 pixels
    assert where[where > 24].min() >= 34 and where.max() < 66  # a long one: cut to the second column; none in the third
    assert grid(images, columns=3, titles=["of a kind 1", "of a kind 2", "b"]).size == plain.size  # alike when cut
    assert grid(images, columns=3, titles=["1\n2", "b", "b"]).height > plain.height


def test_columns_are_titled_where_each_holds_one_class():
    names = ["dark", "bright"]
    assert class_titles([0, 1, 0, 1, 0], names, 2) == names
    assert class_titles([1, 1, 1, 1], names, 2) == ["bright", "bright"]
    assert class_titles([1], names, 2) == ["bright"]
    for labels, columns in (([0, 1, 1, 1], 2), ([0, 1], 1), ([0, None, 0, None], 2), ([], 2), ([0, 1], None)):
        assert class_titles(labels, names, columns) == []


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
    steps = ["step-00000000.png", "step-00000002.png", "step-00000004.png", "step-00000005.png"]
    assert names == ["latest.png", "real.png", *steps, "training.gif"]
    assert (tmp_path / "samples/latest.png").read_bytes() == (tmp_path / "samples" / steps[-1]).read_bytes()
    with Image.open(tmp_path / "samples" / "training.gif") as film:
        assert film.n_frames == 4 and film.size == Image.open(tmp_path / "samples" / steps[-1]).size
    samples = (gan.sample(torch.arange(20), torch.arange(20) % 2) * 127.5 + 127.5).round().to(torch.uint8)
    expected = grid(samples, 2, titles=["dark", "bright"])
    with Image.open(tmp_path / "samples" / "step-00000005.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))
    with Image.open(tmp_path / "samples" / "real.png") as picture:
        titles = expected.height - grid(samples, 2).height
        assert np.array_equal(np.asarray(picture)[:titles], np.asarray(expected)[:titles])


def test_grids_come_early_at_doubling_steps(tmp_path, monkeypatch):
    """A run that does not learn is seen long before the first of the regular grids; none is drawn twice."""
    sampled = SampleGrid(every_n_steps=200, num_images=4)
    drawn = []
    sampled.draw = lambda trainer, model: drawn.append(trainer.global_step)
    monkeypatch.setattr("src.callbacks.pictures.animate", lambda folder: None)  # of no pictures
    fit(tmp_path, data=Squares(), max_steps=400, callbacks=[sampled])
    assert drawn == [0, 50, 100, 200, 400]


def test_drawing_a_grid_does_not_change_the_training(tmp_path):
    states = []
    for callbacks in ([], [SampleGrid(every_n_steps=1)], [LastCheckpoint(every_n_steps=1)]):
        options = {
            "callbacks": callbacks,
            "enable_checkpointing": len(callbacks) > 0,
            "plugins": [AtomicCheckpointIO()],
        }
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


def test_csv_leaves_out_the_row_that_a_dying_process_wrote(tmp_path):
    log = CSV(str(tmp_path))
    for step in (8, 9, 10):
        log.log_metrics({"a": step}, step=step)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-6])  # "10,10" has become "1", a step long past
    again = CSV(str(tmp_path))
    again.resume(9)
    again.log_metrics({"a": 100}, step=10)
    assert [row["step"] for row in read(path)] == ["8", "9", "10"]


def test_steps_that_do_not_log_compute_nothing_for_the_log(tmp_path, monkeypatch):
    norms = []
    original = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda *args: norms.append(1) or original(*args))
    logged = []
    gan = make_gan(on_nonfinite="ignore")  # the other policies look at every gradient
    monkeypatch.setattr(gan, "log_curves", lambda *_: logged.append(dict(gan.curves)))
    fit(tmp_path, gan, max_steps=10, log_every_n_steps=5)
    assert len(logged) == 2 and len(norms) == 4


@pytest.mark.parametrize("logs", [True, False])
def test_the_configuration_goes_to_the_loggers_unless_it_is_kept_from_them(logs, tmp_path):
    told = []
    logger = SimpleNamespace(log_hyperparams=told.append)
    trainer = SimpleNamespace(loggers=[logger], enable_autolog_hparams=logs, default_root_dir=tmp_path, global_step=0)
    KeepConfig("a: 1", {}).on_train_start(trainer, None)
    assert told == [{"a": 1}] * logs and (tmp_path / "config.yaml").read_text() == "a: 1"


def test_a_refused_run_begins_nothing_at_wandb(tmp_path, monkeypatch):
    """Lightning asks every logger for its run before it asks the data and the model whether they can train."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("begun"))
    logger = WandB()
    logger.place(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="not divisible"):
        fit(tmp_path, make_gan(accumulate=3), logger=[logger])
    assert not (tmp_path / "run").exists()


KEY = "a" * 40


@pytest.fixture
def wandb_home(tmp_path, monkeypatch):
    """A home where W&B finds nothing, and a process that has never used it."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path / "home"
    wandb.teardown()


@pytest.fixture
def server():
    """Address of a server that refuses every key."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


@pytest.mark.parametrize("where", ["environment", "netrc", "settings"])
def test_wandb_itself_is_asked_for_the_key(where, wandb_home, server, monkeypatch):
    settings, lines = wandb_home / ".config" / "wandb" / "settings", f"[default]\nbase_url = http://{server}\n"
    write(settings, lines)
    assert obstacle().startswith("not logged in")  # and nobody was prompted
    wandb.teardown()
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    elif where == "netrc":  # as `wandb login` writes it
        write(wandb_home / ".netrc", f"machine {server}\n  login user\n  password {KEY}\n")
    else:
        write(
            wandb_home / ".config" / "wandb" / "settings", f"[default]\nbase_url = http://{server}\napi_key = {KEY}\n"
        )
    assert server in obstacle()  # which did not like the key


def test_wandb_without_an_answer_is_offline_soon_unless_online_is_insisted_on(wandb_home, monkeypatch, capsys):
    """Soon: by the sum of what W&B's service is told to wait, since the clock of a busy machine says nothing."""
    asked, waits = ServiceConnection.api_request, []

    def noted(self, request, timeout=None):
        waits.append(timeout)
        return asked(self, request, timeout)

    monkeypatch.setattr(ServiceConnection, "api_request", noted)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    said = []
    monkeypatch.setattr("src.callbacks.loggers.rank_zero_info", said.append)
    log = WandB()
    log.place("run")
    log.log_metrics({"a": 1.0}, step=1)
    log.finalize("success")
    assert waits and sum(waits) < 10  # the rest takes a moment, too
    (line,) = said
    assert line.startswith("W&B is offline") and "127.0.0.1" in line and "wandb sync run" in line
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    log = WandB()
    log.place("other")
    with pytest.raises(ValueError, match="Weights & Biases: .*127.0.0.1.*WANDB_MODE=offline"):
        log.log_metrics({"a": 1.0}, step=1)
    assert not os.path.exists("other")


@pytest.mark.parametrize(("mode", "begins"), [(None, False), ("offline", True)])
def test_without_a_login_wandb_is_off_unless_it_is_asked_for(mode, begins, wandb_home, server, monkeypatch):
    write(wandb_home / ".config" / "wandb" / "settings", f"[default]\nbase_url = http://{server}\n")
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    said = []
    monkeypatch.setattr("src.callbacks.loggers.rank_zero_info", said.append)
    log = WandB()
    log.place("run")
    log.log_metrics({"a": 1.0}, step=1)
    log.finalize("success")
    assert os.path.exists("run") == begins and not os.path.exists("wandb")  # nor elsewhere
    (line,) = said
    assert line.startswith("W&B is offline (WANDB_MODE)" if begins else "W&B is off (not logged in): `wandb login`")


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_the_mode_of_wandb_is_what_its_settings_say(mode, wandb_home, monkeypatch):
    write(wandb_home / ".config" / "wandb" / "settings", f"[default]\nmode = {mode}\n")
    monkeypatch.setattr("src.callbacks.loggers.obstacle", lambda: 1 / 0)  # nobody is asked
    log = WandB()
    log.place("run")
    log.log_metrics({"a": 1.0}, step=1)
    log.finalize("success")
    assert [path.name.split("-")[0] for path in Path("run").glob("wandb/*run-*")] == ["offline"] * (mode == "offline")
    assert os.path.exists("run") == (mode == "offline")


def test_checkpoints_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    monkeypatch.setattr("src.callbacks.checkpoints.torch.save", lambda _, file: file.write(b"half") and 1 / 0)
    with pytest.raises(OSError, match="could not be written"):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, path)
    assert torch.load(path, weights_only=True) == {"a": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("written", "wanted"), [(None, None), ("abc", "abc"), ("", None)])
def test_wandb_goes_on_with_the_run_of_the_folder(written, wanted, tmp_path):
    if written is not None:  # empty, where the process died while it wrote
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "run_id").write_text(written)
    log = WandB()
    log.place(str(tmp_path))
    assert log.version == wanted


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoints_before_the_last_are_kept(links, tmp_path, monkeypatch):
    if not links:  # as on many file systems of the network
        monkeypatch.setattr("os.link", lambda *_: os.stat(tmp_path / "none"))
    for number in range(5):
        AtomicCheckpointIO().save_checkpoint({"a": number}, tmp_path / "last.ckpt", {"keep": 3})
    kept = {path.name: torch.load(path, weights_only=True)["a"] for path in tmp_path.iterdir()}
    assert kept == {"last.ckpt": 4, "last-1.ckpt": 3, "last-2.ckpt": 2}


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert newest_whole(tmp_path) is None
    for number in range(3):
        AtomicCheckpointIO().save_checkpoint({"a": torch.full([9], number)}, tmp_path / "last.ckpt", {"keep": 3})
    last, before, first = (tmp_path / f"last{age}.ckpt" for age in ("", "-1", "-2"))
    assert newest_whole(tmp_path) == last
    last.write_bytes(last.read_bytes()[:-1])
    assert newest_whole(tmp_path) == before
    before.write_bytes(b"")
    assert newest_whole(tmp_path) == first
    first.write_bytes(first.read_bytes().replace(bytes(72), bytes(71) + b"1"))  # one number
    with pytest.raises(ValueError, match="is whole: move the folder away"):
        newest_whole(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_whole(tmp_path):
    """Full is what the system says when a file may not grow."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path, {"keep": 2})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written.*the checkpoint before it is whole"):
            AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(100_000)}, path, {"keep": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_resuming_executes_nothing(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which Lightning alone would obey
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    trainer = make_trainer(tmp_path, plugins=[AtomicCheckpointIO()])
    with pytest.raises(Exception, match="Weights only load failed"):
        trainer.fit(make_gan(), datamodule=Squares(), ckpt_path=str(tmp_path / "evil.ckpt"))
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_names_what_wrote_it_and_refuses_other_images(run, capsys):
    last = str(run / "checkpoints" / "last.ckpt")
    versions = torch.load(last, weights_only=True)["versions"]
    assert versions["torch"] == torch.__version__.split("+")[0] and set(versions) == {
        "gan-template", "commit", "torch", "torchvision", "lightning",
    }  # fmt: skip
    for option, value, told in (
        ("image_size", "16", "image_size (8, 8) there, (16, 16) here"),
        ("labels", "false", "num_classes 10 there, 0 here"),
    ):
        for command in (["fit", "--run_dir", str(run)], ["test"]):
            assert told in refusal([*command, "--ckpt_path", last, f"--data.{option}", value], capsys)


def test_the_best_checkpoint_stays_the_best_in_a_run_that_moved(tiny_config, tmp_path, monkeypatch):
    distances = iter([2.0, 1.0, 1.5, 9.0])
    monkeypatch.setattr("src.metrics.base.NARROW", 0)  # no errors, whose distances are others
    monkeypatch.setattr("src.metrics.fid.FrechetDistance.values", lambda *_: [next(distances)])
    own = ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.monitor", "diversity"]
    main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "here"), *own])
    (tmp_path / "here").rename(tmp_path / "there")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The dirpath has changed")  # Lightning's own callback keeps its best, too
        main(["fit", "--run_dir", str(tmp_path / "there"), "--resume", "--trainer.max_steps", "6"])
    assert len([*(tmp_path / "there" / "checkpoints").glob("epoch=*.ckpt")]) == 1
    best = torch.load(tmp_path / "there" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 4
    branch = ["fit", "--ckpt_path", str(tmp_path / "there" / "checkpoints" / "last.ckpt"), "--trainer.max_steps", "8"]
    main([*branch, "--run_dir", str(tmp_path / "branch")])
    best = torch.load(tmp_path / "branch" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 8 and next(distances, None) is None  # the best of its own steps


def test_a_run_that_moved_before_its_first_best_says_nothing_of_folders(tmp_path):
    best = BestCheckpoint()
    before = best.state_dict()
    best.dirpath = str(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best.load_state_dict(before | {"dirpath": "/elsewhere"})


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
    bar = StepBar(refresh_rate=1)
    options = {"max_steps": max_steps, "max_time": {"seconds": 1}, "callbacks": [bar], "enable_progress_bar": True}
    trainer = make_trainer(tmp_path, **options)
    trainer.fit(make_gan(), datamodule=Squares())
    if max_steps > 0:
        assert (bar.train_progress_bar.n, bar.train_progress_bar.total) == (3, 3)


def test_the_progress_bar_of_a_run_that_goes_on_has_no_negative_speed(tmp_path, capfd):
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(make_gan(), datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = make_trainer(tmp_path, 5, callbacks=[StepBar(refresh_rate=1)], enable_progress_bar=True)
    again.fit(make_gan(), datamodule=Squares(), ckpt_path=tmp_path / "a.ckpt")
    shown = "".join(capfd.readouterr())
    assert "5/5" in shown and not re.search(r"-[\d.]+(e[+-]\d+)?it/s", shown)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    half = tmp_path / "checkpoints" / ".best.ckpt.tmp"
    half.parent.mkdir()
    half.write_bytes(b"half of it")
    fit(tmp_path, max_steps=1, callbacks=[LastCheckpoint()], enable_checkpointing=True, plugins=[AtomicCheckpointIO()])
    assert not half.exists()


def test_every_process_asks_for_the_features_that_the_nearest_images_need(tmp_path):
    """They may have to be computed by all processes together: one that does not ask leaves the others waiting."""
    asked = []
    gan = SimpleNamespace(first_metric=object(), real=lambda metric, split: asked.append(split))
    NearestImages().on_test_end(SimpleNamespace(is_global_zero=False, default_root_dir=str(tmp_path)), gan)
    assert asked == ["train"] and not any(tmp_path.iterdir())
