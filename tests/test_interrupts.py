"""Ctrl-C, as a terminal sends it: to the command and all the processes that it has started."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from src.callbacks import checkpoints

LONG = ["--model.val_images", "1000000"]  # minutes


class Command:
    """A command in a process group of its own, as a shell starts it."""

    def __init__(self, folder, *arguments):
        self.log = folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "src", *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def interrupt_when(self, condition):
        end = time.monotonic() + 200
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        os.killpg(self.process.pid, signal.SIGINT)

    def says(self, words):
        return lambda: words in self.log.read_text()

    def ends(self):
        """The exit code and what was said of the signal; never a traceback."""
        try:
            code = self.process.wait(100)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        said = self.log.read_text()
        assert "Traceback" not in said and "KeyboardInterrupt" not in said, said[-2000:]
        return code, [line for line in said.splitlines() if line.startswith("SIGINT")]


def test_the_second_one_ends_a_validation_at_once(tiny_config, tmp_path):
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), *LONG]
    command = Command(tmp_path, *arguments, "--data.num_workers", "1")
    command.interrupt_when(lambda: (tmp_path / "run" / "metrics.csv").exists())
    command.interrupt_when(command.says("SIGINT: ends after this step"))
    code, said = command.ends()
    assert code == 130 and len(said) == 1


@pytest.mark.parametrize(
    "subcommand", ["predict", *(pytest.param(name, marks=pytest.mark.slow) for name in ("test", "validate"))]
)
def test_one_is_enough_where_nothing_is_trained(subcommand, run, tmp_path):
    long = {"test": ["--model.test_images", "1000000"], "validate": LONG, "predict": ["--num_images", "1000000"]}
    checkpoint = run / "checkpoints" / "last.ckpt"
    command = Command(tmp_path, subcommand, "--ckpt_path", str(checkpoint), *long[subcommand])
    command.interrupt_when(command.says("DataLoader 0:"))
    assert command.ends() == (130, ["SIGINT: ended before it was done"])
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4


def test_so_it_is_before_training_begins(tiny_config, tmp_path):
    command = Command(tmp_path, "fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"))
    begun = time.monotonic()
    command.interrupt_when(lambda: time.monotonic() > begun + 1)  # it imports
    assert command.ends() == (130, ["SIGINT: ended before it was done"])
    assert not (tmp_path / "run").exists()


def test_an_import_that_catches_everything_does_not_keep_it(tmp_path):
    """As PyTorch does where it looks for NumPy: the command would go on without it, and fail later."""
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    (tmp_path / "greedy.py").write_text("try:\n    import slow\nexcept BaseException:\n    pass\n")
    program = (
        "from src.engine.interrupts import ends_on_interrupt\nwith ends_on_interrupt(): import greedy\nprint('on')"
    )
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.split("\n") == ["", "SIGINT: ended before it was done", ""]


@pytest.mark.parametrize(("seconds", "most"), [(0.01, 200), (5.0, 1)])
def test_processes_ask_each_other_for_signals_every_two_seconds(seconds, most, monkeypatch):
    """At the same steps, though their clocks differ; where a step takes longer, after each."""
    clock, sent, asked = [0.0], {}, []

    def largest(number, device):
        asked.append(trainer.global_step)
        return max(number, sent.get(trainer.global_step, 0), round(1e6 * seconds) if len(asked) % 2 else 0)

    monkeypatch.setattr(checkpoints, "largest", largest)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    trainer = SimpleNamespace(global_step=0, world_size=2, strategy=SimpleNamespace(root_device=None))
    callback = checkpoints.LastCheckpoint()
    callback.asked = (0, 0.0)
    for step in range(1, 1001):
        trainer.global_step = step
        clock[0] += seconds / 2  # this process would be faster
        assert callback.agreed(trainer) == 0
    steps = sorted(set(asked))
    assert steps == list(range(1, 1001, most))
    sent[steps[-1] + most] = 15
    trainer.global_step = steps[-1] + most
    assert callback.agreed(trainer) == 15
