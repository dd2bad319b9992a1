"""The two checkpoints of a run, `last.ckpt` and `best.ckpt`, written so that a crash leaves the old or the new one."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, forces it to disk, then renames.

    Lightning moves the file from the temporary folder, which is a copy where that is another file system: a crash in
    the middle of it destroys the checkpoint that was there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except Exception as error:  # on a full disk PyTorch raises a RuntimeError about positions
            temporary.unlink(missing_ok=True)
            free = shutil.disk_usage(path.parent).free / 1e6
            raise OSError(
                f"{path} could not be written, with {free:.0f} MB free there; the checkpoint before it is whole"
            ) from error


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` of the run folder current.

    Args:
        every_n_steps: steps between two writes; one more at the end of training.
    """

    def __init__(self, every_n_steps: int = 1000):
        if every_n_steps < 1:
            raise ValueError(f"LastCheckpoint every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.saved_at = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        if trainer.global_step != self.saved_at and not trainer.fast_dev_run:
            self.saved_at = trainer.global_step
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt", False)


class BestCheckpoint(ModelCheckpoint):
    """Keeps in `checkpoints/best.ckpt` of the run folder the step that scored best in validation.

    Args:
        monitor: curve that selects; the first metric of the model by default.
        mode: "min" or "max".
    """

    def __init__(self, monitor: str | None = None, mode: str = "min"):
        super().__init__(
            monitor=monitor, mode=mode, filename="best", save_top_k=1, enable_version_counter=False,
            save_on_train_epoch_end=False,
        )  # fmt: skip

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if self.monitor is None and stage == "fit" and pl_module.metrics:
            metric = pl_module.metrics[0]
            metric.setup(pl_module.device)  # which gives it its name
            self.monitor, self.mode = f"val/{metric.name}", "max" if metric.higher_is_better else "min"
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None:
            return
        super().on_validation_end(trainer, pl_module)
        self.tell(trainer)

    @rank_zero_only
    def tell(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(
                    {"best_checkpoint": self.best_model_path, "best": self.best_model_score}
                )


class KeepConfig(Callback):
    """Keeps the resolved configuration with the run: as `config.yaml`, in the loggers, and in every checkpoint.

    Args:
        config: the whole configuration as YAML text.
        facts: of the data, which a checkpoint needs to be sampled from without it.
    """

    def __init__(self, config: str, facts: dict[str, Any]):
        self.config = config
        self.facts = facts

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: a run that was refused leaves no folder behind.
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.config)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["facts"] = self.facts
