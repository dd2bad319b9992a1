"""One progress bar for the whole of training, in steps."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from src.engine.interrupts import is_interrupt


class Closing(Callback):
    """Says what a run has come to where Ctrl-C ends it, as at its end.

    Args:
        say: says it.
    """

    def __init__(self, say: Callable[[], None]):
        self.say = say

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_interrupt(exception):
            self.say()


class StepBar(TQDMProgressBar):
    """Shows generator updates out of `trainer.max_steps`, not batches of an epoch, and redraws seldom.

    Args:
        refresh_rate: steps between two redraws.
    """

    def __init__(self, refresh_rate: int = 20):
        super().__init__(refresh_rate=refresh_rate)

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_start(trainer, *args)
        if trainer.max_steps >= 0:  # now, since no epoch starts where a run goes on in the middle of one
            bar = self.train_progress_bar
            bar.reset(trainer.max_steps)
            bar.initial = bar.n = trainer.global_step
            bar.set_description("steps")

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.max_steps < 0:
            super().on_train_epoch_start(trainer, *args)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.max_steps < 0:
            super().on_train_batch_end(trainer, pl_module, *args)
        elif trainer.global_step % self.refresh_rate == 0 or trainer.global_step == trainer.max_steps:
            self.train_progress_bar.n, self.train_progress_bar.total = trainer.global_step, trainer.max_steps
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            self.train_progress_bar.refresh()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
