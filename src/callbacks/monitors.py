"""Callbacks that judge a run by one of its curves: whether there is such a curve, and in time."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

KNOWN = ("src.", "lightning.")  # whose callbacks log no curves but those that are listed here


class Monitors(Callback):
    """Refuses, before the first step, a callback that would look for a curve in vain."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        training = pl_module.curve_intervals()
        validation = pl_module.figure_names()
        for callback in trainer.callbacks:
            if hasattr(callback, "curve_names"):
                validation += callback.curve_names(trainer.datamodule)
        others = any(not type(callback).__module__.startswith(KNOWN) for callback in trainer.callbacks)
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
                check(callback, training, validation, validation_interval(trainer), others)


def validation_interval(trainer: Trainer) -> int | None:
    """Steps of which each validation comes after a multiple: 1 where it goes by epochs or by time, None without any."""
    if trainer.limit_val_batches == 0:
        return None
    steps = getattr(trainer, "val_check_interval", None)  # which Lightning leaves out where it is a time
    return steps if isinstance(steps, int) and trainer.check_val_every_n_epoch is None else 1


def check(callback: Any, training: dict[str, int], validation: list[str], looks: int | None, others: bool) -> None:
    """Checks one callback that has a `monitor`.

    Args:
        callback: of Lightning, or made from one of its own.
        training: curves of training, and the steps between two values.
        validation: curves of each validation.
        looks: steps between two validations, None without any.
        others: whether callbacks are at work whose curves are not known.

    Raises:
        ValueError: the curve does not exist, or has no value of the step that is judged by it.
    """
    name, monitor = type(callback).__name__, callback.monitor
    steps = getattr(callback, "_every_n_train_steps", 0)
    for option in ("check_on_train_epoch_end", "save_on_train_epoch_end"):
        if getattr(callback, f"_{option}", None):
            raise ValueError(f"{name} would look at {monitor} between validations: leave out {option}")
    if looks is None and isinstance(callback, EarlyStopping):
        raise ValueError(f"{name} looks after a validation, and there is none: leave out --trainer.limit_val_batches 0")
    if monitor in validation:
        if steps:
            raise ValueError(
                f"{name} would judge step {steps} by the {monitor} of the validation before it: leave out"
                " every_n_train_steps, and it saves after each validation"
            )
    elif monitor in training:
        interval = steps or looks or 0
        if interval % training[monitor]:
            raise ValueError(
                f"{name} looks at {monitor} every {interval} steps, and the curve has a value every"
                f" {training[monitor]}: choose --trainer.log_every_n_steps and --trainer.val_check_interval (or"
                " every_n_train_steps) so that the second is a multiple of the first"
            )
    elif not others:
        raise ValueError(
            f"{name} monitors {monitor!r}, and this run has no such curve: choose one of"
            f" {', '.join(sorted({*training, *validation}))}"
        )
