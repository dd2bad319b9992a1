"""The report of a run: curves as in `metrics.csv`, one page that needs nothing else."""

import csv
import math
import random
import re

import numpy as np
import pytest
import torch
from conftest import fit, make_gan
from PIL import Image

from src.callbacks import curves, report
from src.callbacks.loggers import CSV
from src.callbacks.pictures import SampleGrid, send
from src.callbacks.report import Report
from src.cli import main

LOOKS_AT_CURVES = True


def test_the_page_holds_all_of_a_run_and_needs_no_other_file(run, capsys):
    page = (run / "report.html").read_text()
    for title in ("Samples after step 4", "Real images", "Losses", "Norms of the gradients", "Validation after step 4",
                  "Learning rates", "fcd-digits", "config.yaml", "hidden:", "torchmetrics"):  # fmt: skip
        assert title in page, title
    assert not re.findall(r'(?:src|href)="(?!data:image/(?:png|jpeg);base64,)', page)
    assert not re.search(r"<script|@import|url\(|https?://(?!arxiv)", page.partition("<details><summary>config")[0])
    assert "width=device-width" in page and page.count("<img") == page.count("base64,") >= 8
    with Image.open(run / "report.png") as picture:
        assert picture.width >= 1000
    main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    tested = (run / "report.html").read_text()
    assert "Test after step 4" in tested and "the real images nearest to it" in tested
    assert re.search(r"\n  report +\S*/run/report.html\n", capsys.readouterr().out)


def drawn(monkeypatch, some):
    """Label, steps and values of every line, by the titles of the panels."""
    lines = {}
    original = curves.plot

    def spy(axes, title, *args):
        original(axes, title, *args)
        lines[title] = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        lines[f"{title} scale"] = axes.get_yscale()
        lines[f"{title} bands"] = [path.vertices for band in axes.collections for path in band.get_paths()]

    monkeypatch.setattr(curves, "plot", spy)
    curves.draw(some)
    return lines


def test_the_lines_are_the_columns_of_the_file(run, monkeypatch):
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = drawn(monkeypatch, curves.read(run / "metrics.csv"))
    for title, label, column in (
        ("Losses", "generator", "loss/generator"),
        ("Norms of the gradients", "discriminator", "grad_norm/discriminator"),
        ("Discriminator on images it has and has not seen", "held out", "logits/held_out"),
        ("Overfitting (0 none, 1 complete), diversity (1 as real)", "diversity", "diversity"),
    ):
        expected = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        (found,) = [list(zip(*line[1:], strict=True)) for line in lines[title] if line[0] == label]
        assert found == expected and expected
    shown = {
        label for title, each in lines.items() if " scale" not in title and " bands" not in title for label, *_ in each
    }
    errors = {column for column in rows[0] if column.endswith("-error")}
    assert errors and len(lines["Validation bands"]) == len(errors)
    for column in set(rows[0]) - {"step", "images_seen", "val/fcd"} - errors:  # the last one has a longer name, too
        assert (column.partition("/")[2] or column).replace("_", " ") in shown, column


def test_few_values_none_and_those_that_are_not_finite(monkeypatch, tmp_path):
    assert curves.read(tmp_path / "metrics.csv") == {}
    lines = drawn(monkeypatch, {"loss/generator": ([1], [2.0])})
    assert lines["Losses"] == [("generator", [1], [2.0])]
    broken = {"loss/generator": ([1, 2, 3], [2.0, float("nan"), float("inf")]), "faults": ([3], [1.0])}
    lines = drawn(monkeypatch, broken)
    assert lines["Losses"][0][0] == "generator (2 not finite)" and lines["Faults"][0][2] == [1.0]
    log = CSV(str(tmp_path))
    log.log_metrics({"loss/generator": float("nan")}, step=1)
    log.log_metrics({"loss/generator": -1.0}, step=2)
    assert drawn(monkeypatch, curves.read(tmp_path / "metrics.csv"))["Losses scale"] == "linear"


def test_a_figure_has_the_band_of_its_error_and_wide_ranges_are_logarithmic(monkeypatch):
    some = {"val/fid": ([1, 2], [100.0, 4.0]), "val/fid-error": ([2], [1.5])}
    lines = drawn(monkeypatch, some)
    assert [line[0] for line in lines["Validation"]] == ["fid"] and lines["Validation scale"] == "log"
    (band,) = lines["Validation bands"]
    assert {(1.0, 100.0), (2.0, 2.5), (2.0, 5.5)} <= set(map(tuple, band.tolist()))


def test_a_validation_without_errors_says_where_they_are():
    figure = {"name": "fid", "value": 2.0, "error": None, "protocol": {"step": 4}}
    assert "errors, which may take long, come with `test`" in report.table("Validation", [figure])
    assert "come with" not in report.table("Validation", [figure | {"error": 0.1}]) + report.table("Test", [figure])


def test_the_report_changes_neither_training_nor_random_numbers(tmp_path, monkeypatch):
    states = []
    for callbacks in ([], [Report()]):
        folder = tmp_path / str(len(callbacks))
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        gan = fit(folder, make_gan(), max_steps=4, callbacks=callbacks, logger=[CSV(str(folder))],
                  log_every_n_steps=1, val_check_interval=2, limit_val_batches=1)  # fmt: skip
        numbers = random.random(), np.random.rand(), torch.rand(1).item()
        states.append((gan.state_dict(), numbers))
    assert (tmp_path / "1" / "report.html").exists()
    assert states[0][1] == states[1][1]
    assert all(torch.equal(states[0][0][key], tensor) for key, tensor in states[1][0].items())


@pytest.mark.parametrize(("share", "made"), [(math.inf, ["2", "4", "4", "6", "6"]), (report.SHARE, ["4", "6"])])
def test_the_report_is_made_at_the_end_and_where_there_is_time(share, made, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SHARE", share)
    steps = []
    original = report.page
    monkeypatch.setattr(report, "page", lambda *args: steps.append(args[-1]["step"]) or original(*args))
    command = ["fit", "--config", str(tiny_config), "--resume", "--run_dir", str(tmp_path / "run")]
    main(command)
    main([*command, "--trainer.max_steps", "6"])
    assert steps == made
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Samples after step 6" in page and not list((tmp_path / "run").glob(".*.tmp"))


def test_a_full_disk_costs_the_report_and_not_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "replace", full)
    with pytest.warns(UserWarning, match="No space left.*the run goes on without"):
        fit(tmp_path, max_steps=1, callbacks=[Report()])


def test_a_large_picture_is_made_smaller_and_lies_on_white(tmp_path):
    Image.new("RGBA", (3000, 2000), (255, 0, 0, 0)).save(tmp_path / "a.png")
    found = report.inline(tmp_path / "a.png")
    assert found.startswith("data:image/jpeg;base64,")
    from base64 import b64decode
    from io import BytesIO

    with Image.open(BytesIO(b64decode(found.partition(",")[2]))) as picture:
        assert picture.size == (1600, 1067) and picture.getpixel((5, 5)) == (255, 255, 255)


class MLflow:
    """What MLflow offers."""

    run_id = "7"

    def __init__(self):
        self.experiment, self.got = self, []

    def log_image(self, run_id, image, key, step):
        self.got.append((run_id, image.size, key, step))


def test_pictures_go_to_loggers_that_take_them(tmp_path):
    from types import SimpleNamespace

    logger, got = MLflow(), []
    picture = Image.new("L", (4, 2))
    client = SimpleNamespace(run_id="7", experiment=logger)
    send(client, "samples", picture, 3)
    assert logger.got == [("7", (4, 2), "samples", 3)]
    send(CSV(str(tmp_path)), "samples", picture, 3)
    send(SimpleNamespace(log_image=lambda *a, **k: got.append((*a, k))), "samples", picture, 3)
    assert got == [("samples", [picture], {"step": 3})]


def test_tensorboard_gets_the_grids(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(tmp_path, max_steps=2, callbacks=[SampleGrid(every_n_steps=1, num_images=4)], logger=[logger])
    found = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert set(found.Tags()["images"]) == {"samples", "real"}
    assert [image.step for image in found.Images("samples")] == [1, 2]
    from io import BytesIO

    sent = Image.open(BytesIO(found.Images("samples")[-1].encoded_image_string)).convert("L")
    assert np.array_equal(np.asarray(sent), np.asarray(Image.open(tmp_path / "samples" / "step-00000002.png")))
