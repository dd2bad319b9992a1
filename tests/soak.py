"""Kills training again and again, goes on with `--resume`, and compares the end with that of a run never killed.

`make soak` kills at random moments, half of them aimed at what lasts too short to be hit by chance. Each process is
forked from one that has imported everything, runs the real command line, and gets a real SIGKILL.
"""

import argparse
import collections
import contextlib
import csv
import itertools
import multiprocessing
import os
import pydoc
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["src.cli"])
# What a process may be doing when it dies, and the function that does it.
MOMENTS = {
    "step": "src.gan.GAN.update_generator",
    "validation": "src.gan.GAN.score",
    "checkpoint": "src.callbacks.checkpoints.AtomicCheckpointIO.save_checkpoint",
    "curves": "src.callbacks.loggers.CSV.log_metrics",
    "grid": "src.callbacks.pictures.SampleGrid.save",
    "cache": "src.data.files.decode",
    "features": "src.metrics.statistics.Collector.update",
}

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}}
R1 = {"class_path": "src.objectives.regularizers.R1", "init_args": {"weight": 1.0, "every": 3}}
STEPS = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 4, "gamma": 0.5}}
DECAY = {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.9}}
DROPOUT = {"class_path": "src.networks.mlp.Discriminator", "init_args": {"hidden": [16], "dropout": 0.3}}
NORMALIZED = {"class_path": "src.networks.mlp.Generator", "init_args": {"hidden": [16], "batch_norm": True}}
RESIDUAL = {"class_path": "src.networks.resnet.Discriminator", "init_args": {"width": 4}}
ADA = {
    "class_path": "src.images.augment.Adaptive",
    "init_args": {
        "augmentations": ["src.images.augment.Translation", "src.images.augment.Color"],
        "target": -0.5,
        "images": 200,
    },
}
EVERYTHING = {
    "d_steps": 2, "d_warmup_steps": 3, "accumulate": 2, "g_batch_multiple": 2, "regularizers": [R1],
    "augment": [ADA],
    "g_scheduler": STEPS, "d_scheduler": DECAY, "d_optimizer": SGD, "discriminator": DROPOUT, "generator": NORMALIZED,
}  # fmt: skip
CONVOLUTIONS = {  # whose weights, gradients and moments lie in channels_last
    "generator": {"class_path": "src.networks.dcgan.Generator", "init_args": {"width": 4}},
    "discriminator": {"class_path": "src.networks.dcgan.Discriminator", "init_args": {"width": 4, "batch_norm": False}},
    "loss": "src.objectives.losses.RelativisticPairing", "regularizers": [R1], "reuse_fakes": True,
}  # fmt: skip
# Options of `GAN`, of the data and of the trainer.
EXPERIMENTS = {
    "everything": (EVERYTHING, {}, {}),
    "plain": ({}, {}, {}),
    "channels_last": (CONVOLUTIONS, {}, {}),
    "bfloat16": (
        {"discriminator": RESIDUAL, "loss": "src.objectives.losses.Hinge"},
        {"flip": True},
        {"precision": "bf16-mixed"},
    ),
    "workers": ({"generator": NORMALIZED}, {"num_workers": 1}, {}),
}


def write(folder: Path, name: str, **trainer) -> None:
    """Writes an experiment on 60 images of 8x8 pixels, and the images, to a folder."""
    from PIL import Image

    model, data, options = EXPERIMENTS[name]
    images = folder / "images"
    for number in range(60):
        path = images / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(path)
    metric = {"extractor": "src.metrics.features.Classifier"}
    callbacks = [
        {"class_path": "src.callbacks.checkpoints.BestCheckpoint"},
        {"class_path": "src.callbacks.checkpoints.LastCheckpoint", "init_args": {"every_n_steps": 4}},
        {"class_path": "src.callbacks.pictures.SampleGrid", "init_args": {"every_n_steps": 3, "num_images": 20}},
        {"class_path": "src.callbacks.players.PlayerBalance"},
    ]
    experiment = {
        "trainer": {
            "max_steps": 22, "val_check_interval": 6, "log_every_n_steps": 1, "logger": False, "accelerator": "cpu",
            "enable_progress_bar": False, "callbacks": callbacks,
        },
        "model": {
            "generator": {"class_path": "src.networks.mlp.Generator", "init_args": {"hidden": [16]}},
            "discriminator": {"class_path": "src.networks.mlp.Discriminator", "init_args": {"hidden": [16]}},
            "ema": {"class_path": "src.engine.ema.EMA", "init_args": {"half_life": 100}},
            "metrics": [{"class_path": "src.metrics.fid.FrechetDistance", "init_args": metric}],
            "val_images": 100,
        },
        "data": {
            "class_path": "src.data.folder.ImageFolder",
            "init_args": {"root": "images", "cache_dir": "cache", "batch_size": 8},
        },
    }  # fmt: skip
    for part, changes in zip(("model", "data", "trainer"), (model, data, options | trainer), strict=True):
        (experiment[part] if part != "data" else experiment[part]["init_args"]).update(changes)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))


def start(folder: Path, *arguments: str, doing=None, fatal: tuple[str, int, int] | None = None):
    """Runs `fit --resume` of `write`'s experiment in a process of its own, and returns that process."""
    process = PROCESSES.Process(target=train, args=(folder, arguments, doing, fatal))
    process.start()
    return process


def train(folder: Path, arguments: tuple[str, ...], doing, fatal: tuple[str, int, int] | None) -> None:
    """What the process does.

    Args:
        folder: to run in; what is printed is appended to its `log`.
        arguments: added to the command line.
        doing: a shared integer that tells which of `MOMENTS` the process is in, counted from 1.
        fatal: one of `MOMENTS`, the how manieth of its kind it is in which the process signals itself, and the signal.
    """
    os.chdir(folder)
    os.setsid()
    os.environ["OMP_NUM_THREADS"] = "1"
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    torch.set_num_threads(1)
    from src.cli import main

    for number, (moment, function) in enumerate(MOMENTS.items(), 1):
        if doing is not None:
            intercept(function, tell(doing, number))
        elif fatal is not None and fatal[0] == moment:
            intercept("torch.save" if moment == "checkpoint" else function, die(*fatal[1:]))
    main(["fit", "--config", "experiment.yaml", "--run_dir", "run", "--resume", *arguments])


def intercept(function: str, wrapper) -> None:
    """Replaces a function by one that calls `wrapper` with it and its arguments."""
    place, _, name = function.rpartition(".")
    owner = pydoc.locate(place)
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **options: wrapper(original, *args, **options))


def tell(doing, number: int):
    def wrapper(function, *args, **options):
        before, doing.value = doing.value, number
        try:
            return function(*args, **options)
        finally:
            doing.value = before

    return wrapper


def die(count: int, number: int):
    calls = itertools.count(1)

    def wrapper(function, *args, **options):
        if next(calls) == count:
            if function is torch.save:  # a process that dies while it writes has written a part
                args[1].write(b"half of it")
                args[1].flush()
            # A cluster signals all processes of a job, the workers of the loaders too.
            (os.kill if number == signal.SIGKILL else os.killpg)(os.getpid(), number)
        return function(*args, **options)

    return wrapper


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs do not have in common, to the last bit; but for the time that they took."""
    found = [*compare(checkpoint(one, "last"), checkpoint(other, "last"), "last")]
    found += compare(checkpoint(one, "best"), checkpoint(other, "best"), "best")
    found += compare(*(curves(folder) for folder in (one, other)), "metrics.csv")
    drawn, drawn_other = pictures(one), pictures(other)  # Ctrl-C draws one more, which the film shows
    found += compare(drawn, {name: picture for name, picture in drawn_other.items() if name in drawn}, "samples")
    leftovers = [str(path) for path in (other / "run").rglob(".*")]
    return found + leftovers


def checkpoint(folder: Path, name: str) -> dict:
    whole = torch.load(folder / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)
    for state in whole["callbacks"].values():
        state.pop("current_score", None)  # of the latest validation, and only known to the process that did it
    # The configuration names the checkpoint that was resumed. Where that was the end of an epoch, Lightning counts an
    # epoch more; the order of the data, intervals and schedules count steps.
    return whole | {"config": None, "epoch": None, "loops": None}


def curves(folder: Path) -> list:
    with open(folder / "run" / "metrics.csv", newline="") as file:
        return [[(k, v) for k, v in row.items() if k != "images_per_second"] for row in csv.DictReader(file)]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "run" / "samples").glob("*.png")}


def compare(one, other, name: str):
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from compare(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from compare(*pair, f"{name}.{number}")
    elif not (torch.equal(one, other) if isinstance(one, torch.Tensor) and torch.is_tensor(other) else one == other):
        yield f"{name}: {str(one)[:200]} and {str(other)[:200]}"


def kill_at_random(folder: Path, kills: int, undisturbed: float, chance: random.Random) -> list[str]:
    """Kills a run of `undisturbed` seconds so many times, lets it finish, and tells what each process was doing."""
    fell = []
    doing = PROCESSES.RawValue("i", 0)
    while len(fell) < kills:
        doing.value = 0
        process = start(folder, doing=doing)
        aim = chance.choice([0, 0, 0, *range(1, len(MOMENTS) + 1)])  # 0: at any time
        latest = time.monotonic() + (60 if aim else chance.uniform(0, undisturbed))
        times, before = chance.randint(1, 4), 0
        while process.is_alive() and time.monotonic() < latest and times:
            now = doing.value
            times -= bool(aim) and now == aim != before
            before = now
            time.sleep(0.0002)
        if aim:
            time.sleep(chance.uniform(0, 0.003))
        process.kill()
        process.join()
        with contextlib.suppress(ProcessLookupError):  # the processes of its loaders
            os.killpg(process.pid, signal.SIGKILL)
        if process.exitcode == 0:  # it was through before
            shutil.rmtree(folder / "run")
            shutil.rmtree(folder / "cache")
        elif process.exitcode == -signal.SIGKILL:
            begun = (folder / "run" / "config.yaml").exists()
            fell.append(list(MOMENTS)[doing.value - 1] if doing.value else "elsewhere" if begun else "start")
        else:
            raise SystemExit((folder / "log").read_text()[-3000:])
    process = start(folder)
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()[-3000:]
    return fell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="over all experiments")
    parser.add_argument("--each", type=int, default=5, help="of one run, before it may finish")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    chance, fell, mismatches = random.Random(options.seed), collections.Counter(), []
    root = Path(tempfile.mkdtemp())
    for name in ("plain", *EXPERIMENTS):  # the first one also waits for the imports
        shutil.rmtree(root / name, ignore_errors=True)
        write(root / name, name)
        then = time.monotonic()
        process = start(root / name)
        process.join()
        assert process.exitcode == 0, (root / name / "log").read_text()[-3000:]
        if name == "plain":
            undisturbed = time.monotonic() - then
    began = time.monotonic()
    for number in range(-(-options.kills // options.each)):
        name = list(EXPERIMENTS)[number % len(EXPERIMENTS)]
        folder = root / f"{number}-{name}"
        write(folder, name)
        kills = min(options.each, options.kills - number * options.each)
        moments = kill_at_random(folder, kills, undisturbed, chance)
        fell.update(moments)
        found = differences(root / name, folder)
        mismatches += [f"{folder}: {line}" for line in found]
        print(f"{name}: killed in {', '.join(moments)}: {'; '.join(found) or 'the same'}", flush=True)
        if not found:
            shutil.rmtree(folder)
    print(f"{fell.total()} kills in {time.monotonic() - began:.0f} s, {len(mismatches)} mismatches; killed in: "
          + ", ".join(f"{moment} {count}" for moment, count in fell.most_common()))  # fmt: skip
    sys.exit(bool(mismatches))


if __name__ == "__main__":
    main()
