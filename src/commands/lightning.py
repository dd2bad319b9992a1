"""What of Lightning's own callbacks, strategies and plugins goes with two players, and what to take instead."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.enums import LightningEnum
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng

from src.callbacks.checkpoints import BestCheckpoint

# A default of Lightning's that is an Enum (of Timer, for instance) goes into config.yaml as text.
yaml.add_multi_representer(LightningEnum, lambda dumper, value: dumper.represent_str(value.value), yaml.SafeDumper)

A_FEW = 4  # processes, as many as anybody needs who only tries them
STRATEGIES = ("auto", "ddp", "single_device")
NOT_FOR_TWO_PLAYERS = {  # callbacks that expect one loss and one optimizer, or average and change both players alike
    lightning.BaseFinetuning: "--model.freeze, with the names of weights",
    lightning.BatchSizeFinder: "--data.batch_size and --model.accumulate, of which a line says what fits",
    lightning.GradientAccumulationScheduler: "--model.accumulate",
    lightning.LearningRateFinder: "short runs with several --model.g_optimizer.lr and --model.d_optimizer.lr",
    lightning.ModelPruning: "torch.nn.utils.prune on the generator of a finished run, from `src.cli.load`",
    lightning.OnExceptionCheckpoint: "LastCheckpoint and --resume, which go on from whole steps",
    lightning.SpikeDetection: "--model.on_nonfinite, and the lines of PlayerBalance",
    lightning.StochasticWeightAveraging: "--model.ema",
    lightning.WeightAveraging: "--model.ema",
}


def check_strategy(strategy: Any) -> None:
    """Refuses, by its name, a strategy that wraps or shards the model, or whose processes hand nothing back."""
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        raise ValueError(f"--trainer.strategy {strategy} does not go with two players: take auto or ddp")


def check_callbacks(callbacks: list[Any]) -> None:
    """Refuses callbacks that would fail in training, do nothing, or overwrite a checkpoint of the run.

    Raises:
        ValueError: with what to take instead.
    """
    best = [callback for callback in callbacks if isinstance(callback, BestCheckpoint)]
    if len(best) > 1:
        raise ValueError("two BestCheckpoint would write the same best.ckpt: take ModelCheckpoint for the second")
    for callback in callbacks:
        name = type(callback).__name__
        for kind, instead in NOT_FOR_TWO_PLAYERS.items():
            if isinstance(callback, kind):
                raise ValueError(f"{name} does not go with two players: leave it out, and take {instead}")
        if isinstance(callback, ModelCheckpoint):
            if callback._train_time_interval is not None:
                raise ValueError(f"{name} never saves by time here: take every_n_train_steps for train_time_interval")
            if callback.save_last:
                raise ValueError(
                    f"{name} save_last would write over last.ckpt: leave it out, LastCheckpoint keeps that file"
                )
            if callback not in best and Path(callback.filename or "").name in ("best", "last"):
                raise ValueError(
                    f"{name} would write over {callback.filename}.ckpt of the run: choose another filename"
                )


def check_processes(trainer: Trainer, sync_batchnorm: bool) -> None:
    """Refuses on a CPU what several processes cannot do there; a few more than there are cores may be tried.

    Args:
        trainer: before it starts them.
        sync_batchnorm: whether batch norm is to normalize over all processes.
    """
    if not isinstance(trainer.accelerator, CPUAccelerator):
        return
    cores = os.cpu_count() or 1
    if trainer.num_devices > max(cores, A_FEW):
        raise ValueError(
            f"--trainer.devices {trainer.num_devices} would start as many processes on the {cores} cores of a CPU:"
            f" take at most {cores}, or --trainer.accelerator gpu"
        )
    if sync_batchnorm and trainer.world_size > 1:
        raise ValueError(
            "--trainer.sync_batchnorm true needs GPUs: leave it out, and batch norm normalizes within each process,"
            " or take --trainer.devices 1"
        )


def reasons(trainer: Trainer) -> list[str]:
    """Why callbacks ended training before its last step, where they did."""
    said = [getattr(callback, "stopping_reason_message", None) for callback in trainer.callbacks]
    return [reason for reason in said if reason] if trainer.should_stop else []


def told(error: Exception) -> str:
    """What is said of an error that the user can mend."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}; correct the path, its permissions, or make space on its disk"
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: lower --data.batch_size, or raise --model.accumulate ({error})"
    if isinstance(error, ImportError):
        return f"{error}: install what is missing, or leave out the option that asks for it"
    if isinstance(error, ArithmeticError):
        return f"{error}: a number in the options of a schedule or of the optimizer is out of range; see --debug"
    return f"{error}; correct that --trainer option" if isinstance(error, MisconfigurationException) else str(error)


def quieten() -> None:
    """Drops what Lightning says to everybody and that does not hold here; a warning is one line, without its code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    said = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    said.addFilter(lambda record: not re.search("litlogger|TPU available: False", record.getMessage()))
    for message in (
        "does not have many workers", "in eval mode", "callbacks used to create the checkpoint", "is not resumable",
        "Checkpoint directory", "sync_dist=True", "pre-optimization",
        "args parameter is intended to run from within Python", "smaller than the logging interval", "LeafSpec",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", f".*{message}")


@contextmanager
def unnoticed() -> Iterator[None]:
    """Says nothing, and leaves the random streams of the caller as they are."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with isolate_rng():
            yield
    finally:
        logging.disable(level)
