"""A run that is killed and goes on ends as the run that never was, to the last bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import soak
import torch
from conftest import ROOT, Squares, make_gan, make_trainer

from src.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint
from src.data.order import StepSampler

INT, KILL, TERM, USR1 = signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folders of runs that were left alone, by the name of their experiment."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            soak.write(folders[name], name)
            assert exit_code(folders[name]) == 0
        return folders[name]

    return folder


def exit_code(folder, *arguments, **options):
    process = soak.start(folder, *arguments, **options)
    process.join()
    return process.exitcode


def test_a_run_that_was_stopped_ends_as_one_that_was_not(undisturbed, tmp_path):
    """Each process dies in the midst of something, the counts begin anew in each; a checkpoint comes every 4 steps."""
    soak.write(tmp_path, "everything")
    last, log = tmp_path / "run/checkpoints/last.ckpt", tmp_path / "log"
    assert exit_code(tmp_path, fatal=("cache", 20, KILL)) == -KILL
    assert exit_code(tmp_path, fatal=("checkpoint", 3, KILL)) == -KILL  # 4, best of 6, 8
    assert exit_code(tmp_path, fatal=("step", 6, TERM)) == 128 + TERM
    assert torch.load(last, weights_only=True)["global_step"] == 10
    assert f"SIGTERM: saved step 10 in {last.relative_to(tmp_path)}" in log.read_text()
    assert exit_code(tmp_path, fatal=("validation", 1, USR1)) == 128 + USR1
    assert torch.load(last, weights_only=True)["global_step"] == 12
    assert exit_code(tmp_path, fatal=("step", 2, INT)) == 128 + INT
    assert torch.load(last, weights_only=True)["global_step"] == 14
    last.write_bytes(last.read_bytes()[:-100])
    assert exit_code(tmp_path, fatal=("validation", 2, KILL)) == -KILL
    assert log.read_text().count("last.ckpt is damaged: going on from run/checkpoints/last-1.ckpt") == 1
    assert exit_code(tmp_path) == 0
    assert soak.differences(undisturbed("everything"), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "deaths"),
    [
        ("plain", [("step", 3, KILL), ("features", 5, KILL), ("grid", 5, KILL), ("curves", 5, KILL)]),
        ("bfloat16", [("step", 10, KILL), ("step", 3, USR1)]),
        ("workers", [("step", 5, KILL), ("step", 3, TERM), ("step", 2, INT)]),
    ],
)
def test_so_do_others(name, deaths, undisturbed, tmp_path):
    soak.write(tmp_path, name)
    for death in deaths:
        assert exit_code(tmp_path, fatal=death) == (-KILL if death[2] == KILL else 128 + death[2]), death
    assert exit_code(tmp_path) == 0
    assert soak.differences(undisturbed(name), tmp_path) == []


@pytest.mark.slow
def test_weights_and_biases_goes_on_with_the_same_run(tmp_path):
    soak.write(tmp_path, "plain")
    logger = ("--trainer.logger", "src.callbacks.loggers.WandB")
    assert exit_code(tmp_path, *logger, fatal=("step", 10, KILL)) == -KILL
    assert exit_code(tmp_path, *logger) == 0
    records = [path.stem for path in (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")]
    assert len(records) == 2 and len(set(records)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name, graphs", [("everything", "false"), ("bfloat16", "false"), ("bfloat16", "true")])
def test_so_do_runs_on_a_gpu_with_deterministic_algorithms(name, graphs, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = ("--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.deterministic", "true")
    options += ("--model.cuda_graphs", graphs)
    step = "curves" if graphs == "true" else "step"  # a replayed step calls no function to die in
    folders = {number: tmp_path / number for number in ("alone", "stopped")}
    for folder in folders.values():
        soak.write(folder, name)
    assert exit_code(folders["alone"], *options) == 0
    assert exit_code(folders["stopped"], *options, fatal=(step, 10, KILL)) == -KILL
    assert exit_code(folders["stopped"], *options, fatal=(step, 3, TERM)) == 128 + TERM
    assert exit_code(folders["stopped"], *options) == 0
    assert soak.differences(*folders.values()) == []


# ---------------------------------------------------------------------------------------------- other batches


@pytest.mark.parametrize("sizes", [(8, 20), (20, 8), (8, 8)])
def test_another_batch_size_leaves_out_no_image(sizes, tmp_path, caplog, monkeypatch):
    original, drawn, read = StepSampler.indices, [], []
    monkeypatch.setattr(StepSampler, "indices", lambda self, step: drawn.append(original(self, step)) or drawn[-1])
    for steps, size, ckpt_path in ((5, sizes[0], None), (7, sizes[1], tmp_path / "checkpoints" / "last.ckpt")):
        drawn.clear()
        options = {"callbacks": [LastCheckpoint()], "plugins": [AtomicCheckpointIO()], "enable_checkpointing": True}
        trainer = make_trainer(tmp_path, steps + 5 * bool(ckpt_path), **options)
        trainer.fit(make_gan(d_steps=2), datamodule=Squares(batch_size=size), ckpt_path=ckpt_path)
        read += sum(drawn[:steps], [])  # what a loader fetched beyond the last step was not used
    assert len(read) == 5 * 2 * sizes[0] + 7 * 2 * sizes[1]
    for epoch in range(len(read) // 100):
        assert sorted(read[epoch * 100 :][:100]) == list(range(100))
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["images_seen"] == len(read)
    told = f"batch_size was {sizes[0]}, is {sizes[1]}"
    assert (told in caplog.text) == (sizes[0] != sizes[1])


# ---------------------------------------------------------------------------------------- several processes


class Job:
    """A run in two processes, with a session of their own."""

    def __init__(self, folder, *arguments, script=("-m", "src")):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *script, "fit", "--config", "experiment.yaml", "--run_dir", "run", "--resume"]
        self.main = subprocess.Popen(
            [*command, "--trainer.devices", "2", "--trainer.max_steps", "150", *arguments],
            cwd=folder, env=environment, stderr=os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            start_new_session=True,
        )  # fmt: skip
        self.curves = folder / "run" / "metrics.csv"

    def until(self, step):
        while not (self.curves.exists() and f"\n{step}," in self.curves.read_text()):
            assert self.main.poll() is None
            time.sleep(0.002)
        return self

    def end(self, seconds=60):
        """Exit status, once the last of the processes is gone."""
        latest = time.monotonic() + seconds
        self.main.wait(seconds)
        while time.monotonic() < latest:
            try:
                os.killpg(self.main.pid, 0)
            except ProcessLookupError:
                return self.main.returncode
            time.sleep(0.1)
        os.killpg(self.main.pid, KILL)
        raise AssertionError("a process is left")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "deaths"), [("everything", [(6, KILL), (47, KILL)]), ("plain", [(90, TERM)])])
def test_two_processes_that_are_stopped_end_as_two_that_were_not(name, deaths, tmp_path):
    for folder in ("alone", "stopped"):
        soak.write(tmp_path / folder, name, val_check_interval=40)
    assert Job(tmp_path / "alone").end(120) == 0
    for step, number in deaths:
        job = Job(tmp_path / "stopped").until(step)
        job.main.send_signal(number)
        assert job.end() == (-KILL if number == KILL else 128 + number)
    assert Job(tmp_path / "stopped").end(120) == 0
    assert soak.differences(tmp_path / "alone", tmp_path / "stopped") == []


DYING = """
import os, signal, sys
from src.cli import main
from src.gan import GAN
update = GAN.update_generator
def dying(self, batches, step):
    if step == 20 and self.global_rank == int(os.environ["DYING_RANK"]):
        {death}
    update(self, batches, step)
GAN.update_generator = dying
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "death", ["raise RuntimeError('first')", "raise ValueError('first')", "os.kill(os.getpid(), 9)"]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other(rank, death, tmp_path, monkeypatch):
    soak.write(tmp_path, "plain")
    monkeypatch.setenv("DYING_RANK", str(rank))
    (tmp_path / "dying.py").write_text(DYING.format(death=death))
    job = Job(tmp_path, script=["dying.py"]).until(20)
    assert job.end(60) != 0
    log = (tmp_path / "log").read_text()
    assert ("rror: first" if "raise" in death else "onnection") in log
