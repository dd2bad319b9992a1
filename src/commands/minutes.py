"""`fit --minutes`: how many steps fit into so many minutes on this machine, measured before the run begins."""

import logging
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from src.commands import size
from src.commands.trainer import Trainer

FOR_STEPS = 0.92  # share of the time; the rest is for grids, checkpoints, validations and the report
MEASURED = 5.0  # seconds, at least
BY_FEATURES = 30  # minutes between two validations that compute a distance
LENGTHS = ("total_iters", "T_max", "total_steps")  # of a schedule, in steps
POWER = 0.5  # of the rates of a player without a schedule: they fall late, as in digits.yaml


def plan(run: Any, build: Callable[[], Any]) -> None:
    """Puts the steps that fit into `run.minutes`, and what follows from their number, into the configuration.

    A run that goes on keeps its plan.

    Args:
        run: options of `fit`; changed in place.
        build: makes the model, the data and the rest from the configuration; what it makes is thrown away.

    Raises:
        ValueError: the minutes are too few for one step, or there are several processes.
    """
    if run.ckpt_path:
        return rank_zero_info(f"--minutes {run.minutes:g}: of the {run.trainer.max_steps:,} steps that the run has")

    def measured() -> size.Measured:
        made = build()
        kept = ("accelerator", "devices", "num_nodes", "precision", "threads")
        options = {name: run.trainer[name] for name in kept}
        seconds, *others = measure(made["model"], made["data"], options)
        return size.Measured(int(60 * run.minutes * FOR_STEPS / seconds), seconds, *others, made["data"].batch_size)

    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.INFO)  # all of it is said again when the run begins
        try:
            found, told = size.by_time(run, measured) if size.undecided(run) else (measured(), "")
        finally:
            logging.disable(logging.NOTSET)
    if found.steps < 1:
        raise ValueError(f"a step takes {found.seconds:.2g} s here: --minutes {run.minutes:g} is too short for one")
    checks = max(1, int(run.minutes / BY_FEATURES)) if run.model.metrics and not found.lacking else 4
    interval = math.ceil(found.steps / checks)
    steps = interval * checks
    fitted = fit_schedules(run.model, run.trainer.max_steps, steps)
    run.trainer.max_steps, run.trainer.val_check_interval = steps, interval
    rank_zero_info(
        f"--minutes {run.minutes:g}: {told}{steps:,} steps of batch_size {found.batch_size}, {1000 * found.seconds:.3g}"
        f" ms each (measured over {found.period}), a validation every {interval:,}{fitted}; see config.yaml, which"
        " repeats the run without measuring"
    )


def fit_schedules(model: Any, before: int, steps: int) -> str:
    """Makes schedules that were as long as the run as long as it is now; a player without one gets a late decay.

    Returns:
        Which ones, in words.
    """
    told = ""
    for name in ("g_scheduler", "d_scheduler"):
        if model[name] is None:
            decay = Namespace(
                total_iters=steps, power=POWER, last_epoch=-1
            )  # all that there is: no change if it goes on
            model[name] = Namespace(class_path="torch.optim.lr_scheduler.PolynomialLR", init_args=decay)
            told += f", {name} PolynomialLR to 0 at their end"
            continue
        given = model[name].get("init_args", Namespace())
        for length in [length for length in LENGTHS if given.get(length) == before]:
            given[length] = steps
            told += f", {length} of {name} {before:,} -> {steps:,}"
    return told


def measure(model: LightningModule, data: LightningDataModule, options: dict[str, Any]) -> tuple[float, int, bool]:
    """Trains for some seconds.

    Args:
        model: is trained.
        data: of the run.
        options: of the Trainer.

    Returns:
        Seconds a step, the number of steps that were measured, and whether the model lacks the weights of a metric.

    Raises:
        ValueError: there are several processes.
    """
    periods = [part.every for part in (*model.regularizers, *model.g_regularizers)]
    watch = Stopwatch(math.lcm(*periods))
    trainer = Trainer(
        **options, max_epochs=-1, callbacks=[watch], logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    if trainer.world_size > 1:
        raise ValueError("--minutes measures one process: give --trainer.max_steps, or --trainer.devices 1")
    trainer.fit(model, datamodule=data)
    return watch.seconds, watch.measured, bool(model.lacking)


class Stopwatch(Callback):
    """Ends training when it has lasted long enough to know how long a step takes.

    Args:
        period: steps after which all of them have been alike once: penalties are due only at some.
    """

    def __init__(self, period: int):
        self.period = period

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step % self.period == 0 and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        if trainer.global_step == self.period:  # the first ones are slower
            self.start = time.perf_counter()
        elif trainer.global_step % self.period == 0:
            lasted = time.perf_counter() - self.start
            self.measured = trainer.global_step - self.period
            self.seconds = lasted / self.measured
            trainer.should_stop = lasted >= MEASURED


class TimeLimit(Callback):
    """Ends training when the minutes are over, should the steps take longer than they were measured to.

    Args:
        minutes: from the first step on.
    """

    stopping_reason_message = ""

    def __init__(self, minutes: float):
        self.minutes = minutes

    def on_train_start(self, *_: Any) -> None:
        self.end = time.monotonic() + 60 * self.minutes

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if time.monotonic() >= self.end and trainer.global_step < trainer.max_steps:
            trainer.should_stop = True
            missing = trainer.max_steps - trainer.global_step
            self.stopping_reason_message = (
                f"{self.minutes:g} minutes are over, {missing:,} steps short of the plan: --resume goes on"
            )
