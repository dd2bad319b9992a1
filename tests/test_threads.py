"""The number of threads: no more than there are idle cores, kept by a run that goes on, and always what was said."""

import os

import pytest
import torch
import yaml
from conftest import ROOT

from src.cli import main
from src.engine import threads

NOT_THE_SAME = "not bit by bit"


@pytest.fixture
def unsaid(monkeypatch):
    """As a command of a shell that says nothing of threads; its number is undone after the test."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    yield monkeypatch
    torch.set_num_threads(before)


def test_work_of_others_takes_cores_and_own_work_does_not(monkeypatch, tmp_path):
    tick = os.sysconf("SC_CLK_TCK")
    stat = "cpu {0} 0 0 0 0 0 0 0\ncpu0 {0} 0 0 {1} 9 0 0 0 0 0\ncpu1 0 {2} 0 7 0 0 0 {3} 0 0\ncpu2 {4} 0 0 0 0 0 0 0\n"
    monkeypatch.setattr(threads, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    def at(clock, own, *ticks):
        threads.STAT.write_text(stat.format(*ticks, 99 * clock))
        monkeypatch.setattr(threads.time, "monotonic", lambda: clock)
        monkeypatch.setattr(os, "times", lambda: (own, 0, 0, 0, 0))

    monkeypatch.setattr(threads, "_begun", None)
    assert threads.idle_cores() is None
    at(100, 3, 50, 5, 10, 0)
    threads.watch()
    at(110, 13, 50 + 10 * tick, 5, 10 + 4 * tick, 2 * tick)  # ten seconds of own work, four of others, two stolen
    assert threads.idle_cores() == pytest.approx(2 - 0.6)


@pytest.mark.parametrize(
    ("idle", "processes", "number"), [(2.0, 1, 2), (1.85, 1, 2), (1.6, 1, 1), (0.1, 1, 1), (8.0, 2, 4), (2.0, 4, 1)]
)
def test_each_thread_has_an_idle_core(idle, processes, number):
    assert threads.automatic(idle, processes)[0] == number


def test_a_run_keeps_the_number_that_it_began_with(unsaid, tiny_config, tmp_path, capfd, caplog):
    args = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")]

    def kept():
        return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["threads"]

    unsaid.setattr(threads, "idle_cores", lambda: 2.9)
    main(args)
    assert "trainer.threads auto: 3, since 2.9 of " in capfd.readouterr().out
    assert torch.get_num_threads() == 3 == kept()

    os.environ.pop("OMP_NUM_THREADS")  # a new shell, on a machine that has less to give
    unsaid.setattr(threads, "idle_cores", lambda: 1.0)
    main([*args, "--resume", "--trainer.max_steps", "5"])
    assert torch.get_num_threads() == 3 == kept()
    assert "trainer.threads 3, but 1.0 cores are idle" in capfd.readouterr().out
    assert NOT_THE_SAME not in caplog.text

    os.environ["OMP_NUM_THREADS"] = "2"  # said, and so it wins
    torch.set_num_threads(2)  # what PyTorch does with it at its import
    main([*args, "--resume", "--trainer.max_steps", "6"])
    assert torch.get_num_threads() == 2 == kept()
    assert "trainer.threads 3 -> 2" in caplog.text and NOT_THE_SAME in caplog.text

    caplog.clear()
    main([*args, "--resume", "--trainer.max_steps", "7", "--trainer.threads", "1"])  # over the environment, too
    assert torch.get_num_threads() == 1 == kept() and "trainer.threads 2 -> 1" in caplog.text


def test_the_command_looks_before_it_imports_what_takes_seconds():
    text = (ROOT / "src" / "__main__.py").read_text()
    assert text.index("threads.watch()") < text.index("from src.cli import main")
