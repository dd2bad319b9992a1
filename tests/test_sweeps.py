"""Sweeps: each run has a folder of its own, and what they optimise has a name that stays."""

import pytest
import yaml
from conftest import ROOT

from src.cli import main
from src.commands.folders import HANDED_ON, new_folder


class Options(dict):
    """Of `fit`, as the parser gives them."""

    __getattr__ = dict.get


def options(folder, run_dir, **others):
    trainer = Options(default_root_dir=str(folder / "run"), num_nodes=1)
    return Options({"run_dir": run_dir, "resume": False, "trainer": trainer} | others)


def test_a_run_takes_the_next_free_folder(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    quick = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", "--trainer.callbacks", "[]"]
    main(["fit", "--config", str(tiny_config), *quick, "--run_dir", "auto"])
    assert "runs/tiny is taken: this run goes into runs/tiny-2" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "runs" / "tiny-2" / "config.yaml").read_text())["run_dir"] == "runs/tiny-2"


def test_only_sweeps_and_auto_choose_a_folder(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    taken = str(tmp_path / "run")
    assert new_folder(options(tmp_path, taken), []) == taken  # and `fit` refuses it
    monkeypatch.setenv("WANDB_SWEEP_ID", "of-a-sweep")
    assert [new_folder(options(tmp_path, taken), []) for _ in range(2)] == [f"{taken}-2", f"{taken}-3"]
    assert new_folder(options(tmp_path, taken, resume=True), []) == taken
    with pytest.raises(ValueError, match="leave one of them out"):
        new_folder(options(tmp_path, "auto", resume=True), [])


def test_processes_of_one_run_share_its_folder(tmp_path, monkeypatch):
    run = options(tmp_path, "auto")
    assert new_folder(run, []) == str(tmp_path / "run")
    monkeypatch.setenv("LOCAL_RANK", "1")  # of a process that the first one has started
    assert new_folder(run, []) == str(tmp_path / "run") and len(list(tmp_path.iterdir())) == 1
    monkeypatch.delenv(HANDED_ON)
    with pytest.raises(ValueError, match="each process would choose a folder of its own"):
        new_folder(run, [])


def test_the_sweep_of_wandb_is_a_command_of_this_project(capsys):
    sweep = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text())
    first = {name: of["values"][0] if "values" in of else of["min"] for name, of in sweep["parameters"].items()}
    words = [word.replace("configs/", f"{ROOT}/configs/") for word in sweep["command"][4:-1]]
    assert sweep["command"][:4] == ["${env}", "python", "-m", "src"] and sweep["metric"]["name"] == "val/fcd"
    with pytest.raises(SystemExit) as stopped:
        main([words[0], *words[1:], *(f"--{name}={value}" for name, value in first.items()), "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["g_optimizer"]["init_args"]["lr"] == 2e-4


def test_optuna_searches(tiny_config, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    from configs.sweep import search

    study = search(2, "--config", str(tiny_config), "--trainer.max_steps", "2", "--trainer.callbacks", "[]")
    assert len(study.trials) == 2 and study.best_value > 0 and set(study.best_params) == {"g", "d"}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]
