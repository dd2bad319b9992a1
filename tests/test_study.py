"""Studies, leaderboards and comparisons: what several runs come to."""

import csv
import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import ROOT, refusal
from PIL import Image

from src.callbacks.curves import mean
from src.cli import main
from src.commands import study
from src.commands.results import differences
from src.commands.summary import difference, limit

LOOKS_AT_CURVES = True
DIES = """\
import os, signal
from src.objectives.losses import Hinge


class Dies(Hinge):
    def generator(self, real, fake):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write_run(folder, value, options=None, higher=False, **protocol):
    """A run folder as `fit` and `test` leave it, with one figure of error 0.1."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    figure = {"name": "figure", "value": value, "error": 0.1, "higher_is_better": higher}
    figure["protocol"] = {"num_fake": 100, "seed": 0} | protocol
    record = {"checkpoint": "checkpoints/last.ckpt", "step": 7, "results": [figure]}
    (folder / "metrics.json").write_text(json.dumps(record))
    config = {"run_dir": str(folder), "model": {"loss": {"class_path": "Hinge", "init_args": {}}, "d_steps": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | (options or {})))
    (folder / "metrics.csv").write_text(f"step,val/figure,val/figure-error\n1,{value},0.1\n2,{value + 1},0.1\n")
    Image.fromarray(np.full((40, 30), 90, np.uint8)).save(folder / "samples" / "latest.png")


VALUES = {("plain", 3): 1.0, ("plain", 4): 2.0, ("hinge", 3): 4.0, ("hinge", 4): 4.5}


@pytest.fixture
def started(monkeypatch, tmp_path, tiny_config):
    """The runs that a study starts: here each writes its figures at once, or fails where there are none in VALUES."""
    runs = []

    def start(run_dir, options, test, threads):
        arm, seed = run_dir.parent.name, int(run_dir.name.removeprefix("seed"))
        runs.append((arm, seed))
        run_dir.mkdir(parents=True, exist_ok=True)
        assert options[-2:] == ["--seed_everything", str(seed)] and test == ["--model.test_images", "120"]
        if (arm, seed) in VALUES:
            for place, less in (("", 0.0), ("best", 0.5)):
                write_run(run_dir / place, VALUES[arm, seed] - less)
            (run_dir / "checkpoints").mkdir(exist_ok=True)
            (run_dir / "checkpoints" / "best.ckpt").touch()
        (run_dir / "log.txt").write_text("one\nerror: no such luck\nlast words\n")
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(study, "start", start)
    monkeypatch.chdir(tmp_path)
    return runs


def test_a_study_compares_arms_over_the_same_seeds_and_goes_on_where_it_stopped(started, tmp_path, capsys):
    folder = tmp_path / "runs" / "studies" / "tiny"
    command = ["study", "--config", "tiny.yaml", "--arm", "plain", "--arm", "hinge=--model.loss Hinge"]
    command += ["--test", "--model.test_images 120"]
    said = refusal([*command, "--arm", "bad=--model.d_steps 2", "--seeds", "3"], capsys)
    assert "1 of 3 runs failed" in said and started == [("plain", 3), ("hinge", 3), ("bad", 3)]
    assert "\n- bad/seed3: no such luck\n" in (folder / "table.md").read_text()

    main([*command, "--seeds", "3-4"])
    assert started[3:] == [("plain", 4), ("hinge", 4)]
    table = (folder / "table.md").read_text()
    assert "| plain |  | 2 of 2 | 0 |" in table and "| hinge | `--model.loss Hinge` | 2 of 2 | 0 |" in table
    # Deviations sqrt(1/2) and sqrt(1/8); differences 3 and 2.5, of error 0.25.
    row = "| figure ↓ | {} | {} ± 0.7071 | {} ± 0.3536 | +2.7500 ± 0.2500 |"
    assert row.format("last", "1.5000", "4.2500") in table and row.format("best", "1.0000", "3.7500") in table
    with open(folder / "table.csv", newline="") as file:
        rows = {(row["checkpoint"], row["arm"]): row for row in csv.DictReader(file)}
    assert list(rows) == [("last", "plain"), ("last", "hinge"), ("best", "plain"), ("best", "hinge")]
    last = {name: float(value) for name, value in list(rows["last", "hinge"].items())[3:]}
    assert last == pytest.approx(
        {"mean": 4.25, "deviation": 0.125**0.5, "difference": 2.75, "error": 0.25, "seed3": 4.0, "seed4": 4.5}
    )
    assert all(Image.open(folder / picture).width > 75 for picture in ("curves.png", "samples.png"))

    (folder / "hinge" / "seed4" / "best" / "metrics.json").unlink()
    main([*command, "--seeds", "3-4"])
    assert started[5:] == [("hinge", 4)]  # nothing is done twice
    said = refusal([*command, "--model.d_steps", "3"], capsys)
    assert "plain holds runs of other options (model.d_steps was 1, is 3)" in said and len(started) == 6


def test_a_clear_difference_is_one_beyond_the_interval_of_student():
    assert [round(limit(number), 3) for number in (2, 3, 5, 11)] == [12.706, 4.303, 2.776, 2.228]
    assert difference([1.0, 1.2]) == "+1.1000 ± 0.1000"  # 11 errors: too few for two seeds
    assert difference([1.0, 1.1, 1.2]) == "**+1.1000 ± 0.0577**"
    assert difference([0.0, 0.0]) == "+0.0000 ± 0.0000" and difference([1.0]) == "+1.0000" and difference([]) == ""


def test_a_run_is_trained_and_both_checkpoints_scored_unless_that_is_done(tmp_path, tiny_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []

    def run(command):
        said.append(command)
        main(command)

    options = ["--config", "tiny.yaml", "--seed_everything", "5", "--trainer.callbacks", "null"]
    for expected in (["fit", "test", "test"], ["test"]):
        study.measure(run, "run", options, ["--model.test_images", "120"])
        assert [command[0] for command in said] == expected
        records = [json.loads((tmp_path / "run" / place / "metrics.json").read_bytes()) for place in (".", "best")]
        checkpoints = [f"run/checkpoints/{name}.ckpt" for name in ("last", "best")]
        assert [record["checkpoint"] for record in records] == checkpoints
        protocol = records[1]["results"][0]["protocol"]
        assert (protocol["num_fake"], protocol["seed"]) == (120, 5)
        assert {figure["higher_is_better"] for figure in records[0]["results"]} == {False}
        said.clear()
        (tmp_path / "run" / "best" / "metrics.json").unlink()


def test_a_process_that_dies_costs_its_run_alone(tmp_path, tiny_config, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "toy_losses.py").write_text(DIES)
    command = ["study", "--config", "tiny.yaml", "--arm", "bad=--model.loss toy_losses.Dies", "--seeds", "0"]
    assert "1 of 1 runs failed" in refusal([*command, "--run_dir", "out"], capsys)
    assert "\n- bad/seed0: ended by SIGKILL\n" in (tmp_path / "out" / "table.md").read_text()


REFUSED = {
    "--seeds 0-": "--seeds 0- is no list of numbers",
    "--seeds 4-0": "--seeds 4-0 is no list of numbers",
    "--seeds 0-2,1": "--seeds 0-2,1 names 1 twice",
    "--seeds x": "--seeds x is no list of numbers",
    "--jobs 0": "--jobs must be at least 1",
    "--arm =x": "--arm =x: begin with a name",
    "--arm a/b=": "begin with a name",
    "--arm a --arm a=--model.d_steps=2": "two --arm have one name",
    "--arm a=--model.los=Hinge": "arm a: unrecognized arguments: --model.los=Hinge: did you mean --model.loss?",
    "--arm a=--model.loss=Hing": "did you mean Hinge?",
    "--arm a=--config=none.yaml": "arm a: none.yaml does not exist",
    "--arm a=--seed_everything=3": "take --seeds",
    "--resume": "--resume is set by the study",
    "--model.los Hinge": "did you mean --model.loss?",
    """--test "'x" """: "No closing quotation",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_study_refuses_before_it_trains(options, started, tmp_path, capsys):
    said = refusal(["study", "--config", "tiny.yaml", *shlex.split(options)], capsys)
    assert REFUSED[options] in said and not started and not (tmp_path / "runs").exists()


def test_the_mean_curve_is_over_the_steps_that_all_have():
    (steps, values), (_, around) = mean([([1, 2, 3], [0.0, 1.0, 2.0]), None, ([2, 3, 4], [3.0, 2.0, 1.0])])
    assert (steps, values) == ([2, 3], [2.0, 2.0])
    assert around == pytest.approx([2**0.5, 0.0])


def test_runs_are_put_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a", 1.0)
    write_run(tmp_path / "runs" / "b", 2.0, {"model": {"loss": {"class_path": "Wasserstein"}, "d_steps": 1}})
    write_run(tmp_path / "runs" / "c", 1.2)
    main(["compare", "runs/a", "runs/b", "runs/c"])
    said = capsys.readouterr().out
    assert "figure ↓\n  1.0000 ± 0.1000  runs/a\n" in said
    assert "runs/b  (+1.0000 ± 0.1414: worse)" in said  # 0.1 sqrt(2)
    assert "runs/c  (+0.2000 ± 0.1414: no clear difference)" in said
    assert said.count("model.") == 1 and "  model.loss: Hinge | Wasserstein | Hinge\n" in said
    curves, samples = (Image.open(tmp_path / "runs" / "comparison" / f"{name}.png") for name in ("curves", "samples"))
    assert curves.width > 100
    assert samples.width == 3 * 30 + 2 * 16
    assert [samples.getpixel((x, 38)) for x in (5, 51, 97)] == [(90, 90, 90)] * 3  # below the names
    (tmp_path / "runs" / "b" / "metrics.json").unlink()
    main(["compare", "runs/b", "runs/b/../a", "--output", "else"])
    said = capsys.readouterr().out
    assert "runs/b has no figures yet: python -m src test --ckpt_path runs/b/checkpoints/last.ckpt" in said
    assert (tmp_path / "else" / "curves.png").exists()
    (tmp_path / "runs" / "b" / "config.yaml").write_text("a: [")
    assert "runs/b/config.yaml is not YAML" in refusal(["compare", "runs/a", "runs/b"], capsys)
    write_run(tmp_path / "runs" / "d", 1.0, num_fake=50)
    assert "num_fake 100 and 50" in refusal(["compare", "runs/a", "runs/d"], capsys)


@pytest.mark.parametrize(("higher", "verdict"), [(True, "better"), (False, "worse"), (None, "different")])
def test_the_direction_of_a_figure_says_which_run_is_better(higher, verdict, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 1.0), ("b", 2.0)):
        write_run(tmp_path / name, value, higher=higher)
    main(["compare", "a/metrics.json", "b/metrics.json"])
    assert f"{verdict})" in capsys.readouterr().out
    assert not (tmp_path / "comparison").exists()  # of files there are no pictures


def test_differences_are_named_as_options_are_typed():
    configs = [
        {"run_dir": name, "model": {"loss": loss, "betas": [0.0, beta]}, "data": None}
        for name, loss, beta in (
            ("a", {"class_path": "Hinge"}, 0.9),
            ("b", {"class_path": "Own", "init_args": {"weight": 2}}, 0.99),
        )
    ]
    assert differences(configs) == {
        "model.betas.1": [0.9, 0.99],
        "model.loss": ["Hinge", "Own"],
        "model.loss.weight": ["-", 2],
    }
    assert differences(configs[:1] * 2) == {}


def test_the_leaderboard_ranks_runs_of_one_protocol(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value, number in (("a", 3.0, 100), ("b", 1.0, 100), ("x/c", 2.0, 100), ("d", 0.5, 50)):
        write_run(tmp_path / "runs" / name, value, num_fake=number)
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "metrics.json").write_text("{")
    main(["leaderboard", "runs"])
    assert "left out: runs/bad/metrics.json holds no figures" in capsys.readouterr().out
    page = (tmp_path / "runs" / "leaderboard.md").read_text()
    few, many = sorted(page.split("## figure")[1:], key=len)
    assert [row.split(" | ")[0] for row in many.splitlines() if " ± " in row] == ["| b", "| x/c", "| a"]
    assert "| d | last | 7 | 0.5000 ± 0.1000 |" in few and "num fake 50" in few and "num fake 100" in many
    for run in tmp_path.glob("runs/**/metrics.json"):
        run.write_text(run.read_text().replace('"higher_is_better": false', '"higher_is_better": true'))
    main(["leaderboard"])
    page = (tmp_path / "runs" / "leaderboard.md").read_text()
    assert [line[:4] for line in page.splitlines() if "3.0000" in line or "1.0000" in line] == ["| a ", "| b "]
    assert "no metrics.json under nowhere" in refusal(["leaderboard", "nowhere"], capsys)
