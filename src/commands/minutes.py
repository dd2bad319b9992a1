"""`fit --minutes`: how many steps fit into so many minutes on this machine, measured before the run begins."""

import logging
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from src.callbacks.checkpoints import KeepConfig
from src.commands import size
from src.commands.trainer import Trainer
from src.engine.schedules import LateLR

FOR_STEPS = 0.92  # share of the time; the rest is for grids, checkpoints, validations and the report
MEASURED = 5.0  # seconds, at least
REVISED = 0.75  # share of the time before the first validation, after which the pace of training itself is known
AS_TRAINED = 0.96  # share of the time for what goes on at that pace, with its grids; the rest ends the run
TOLERANCE = 0.04  # of the steps, within which a plan stays
CHECKS = 3  # validations of a run in which they are cheap
BY_FEATURES = 30  # minutes between two validations that compute a distance
LENGTHS = ("total_iters", "T_max", "total_steps")  # of a schedule, in steps
SCHEDULERS = ("g_scheduler", "d_scheduler")
LATE = f"{LateLR.__module__}.{LateLR.__qualname__}"  # of a player without a schedule


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
    checks = max(1, int(run.minutes / BY_FEATURES)) if run.model.metrics and not found.lacking else CHECKS
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
    for name in SCHEDULERS:
        if model[name] is None:
            # All options that there are: no change if it goes on.
            model[name] = Namespace(class_path=LATE, init_args=Namespace(total_iters=steps, start=None, last_epoch=-1))
            told += f", {name} LateLR to 0 at their end"
            continue
        for length in lengths_of(model[name], before):
            model[name]["init_args"][length] = steps
            told += f", {length} of {name} {before:,} -> {steps:,}"
    return told


def lengths_of(schedule: Any, steps: int) -> list[str]:
    """The options of a schedule that make it as long as a run of so many steps."""
    return [length for length in LENGTHS if schedule.get("init_args", {}).get(length) == steps]


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
    """Ends training when the minutes are over; before, moves the end of the plan to where the pace of training leads.

    It moves before the first validation, and later, if there is time for more validations, while no rate has fallen:
    what was done so far is the same in a run of any length, so that the configuration, which is written anew, still
    repeats the run bit for bit.

    Args:
        minutes: from the first step on.
        kept: the configuration of the run; none leaves the plan as it is.
    """

    stopping_reason_message = ""

    def __init__(self, minutes: float, kept: KeepConfig | None = None):
        self.minutes, self.kept = minutes, kept

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        self.start = time.monotonic()
        self.since = (0, 0.0)  # a step, and the share of the time that was over then, from which on pace is measured

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        gone = (time.monotonic() - self.start) / (60 * self.minutes)
        step, steps, interval = trainer.global_step, trainer.max_steps, trainer.val_check_interval
        if self.kept:
            first, checks = not self.since[0], steps // interval
            if max(gone, step / steps) >= REVISED / max(CHECKS, checks) if first else step == steps // 2 - 1:
                pace = (step - self.since[0]) / max(gone - self.since[1], 1e-9)  # a clock may be coarse
                fitting = step + int(pace * (AS_TRAINED - gone))
                interval = fitting // checks if first else interval
                self.revise(trainer, interval, checks if first else max(checks, fitting // interval))
                self.since = (step, gone)
        if gone >= 1 and step < trainer.max_steps:
            trainer.should_stop = True
            missing = trainer.max_steps - step
            self.stopping_reason_message = (
                f"{self.minutes:g} minutes are over, {missing:,} steps short of the plan: --resume goes on"
            )

    def revise(self, trainer: Any, interval: int, checks: int) -> None:
        """Gives the run so many validations, so many steps apart, if that changes its length by much."""
        now, before, steps = trainer.global_step, trainer.max_steps, interval * checks
        open_ = 2 * now < min(before, steps) and (now < interval or interval == trainer.val_check_interval)
        if not open_ or abs(steps / before - 1) < TOLERANCE:
            return
        config = yaml.safe_load(self.kept.config)
        for name in SCHEDULERS:
            given = config["model"][name]
            late = given["class_path"] == LATE and given["init_args"]["start"] is None
            if lengths_of(given, before) and not late:
                told = f"{steps:,} steps would fit; it stays at {before:,}, since {name} is as long as that"
                return rank_zero_info(f"--minutes {self.minutes:g}: {told}")
        fit_schedules(config["model"], before, steps)
        config["trainer"] |= {"max_steps": steps, "val_check_interval": interval}
        trainer.fit_loop.epoch_loop.max_steps = steps
        trainer.val_check_interval = trainer.val_check_batch = interval
        for scheduler in trainer.lightning_module.schedulers():
            if isinstance(scheduler, LateLR) and scheduler.total_iters == before:
                scheduler.total_iters = steps
        self.kept.config = yaml.safe_dump(config, sort_keys=False)
        self.kept.write(trainer)
        rank_zero_info(
            f"--minutes {self.minutes:g}: {steps:,} steps in place of {before:,}, at the pace of the last"
            f" {now - self.since[0]:,}; a validation every {interval:,}; config.yaml is written anew"
        )
