"""The checkpoints of a run, `last.ckpt` and `best.ckpt`, written so that a crash leaves the old or the new one."""

import os
import shutil
import signal
import time
import zipfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from src import __version__
from src.engine.distributed import largest
from src.engine.interrupts import end_at_once, exit_code, handle, tell
from src.engine.versions import commit
from src.engine.weights import SUFFIX, load_weights

LIBRARIES = ("torch", "torchvision", "lightning")
BETWEEN_QUESTIONS = 2.0  # seconds after which processes ask each other again whether one was told to end


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, forces it to disk, then renames; reads data only, never code.

    Lightning moves the file from the temporary folder, which is a copy where that is another file system: a crash in
    the middle of it destroys the checkpoint that was there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """`storage_options["keep"]` checkpoints of this name are kept: the new one, and those that it follows."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            keep_earlier(path, (storage_options or {}).get("keep", 1))
            os.replace(temporary, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except Exception as error:  # on a full disk PyTorch raises a RuntimeError about positions
            temporary.unlink(missing_ok=True)
            free = shutil.disk_usage(path.parent).free / 1e6
            raise OSError(
                f"{path} could not be written, with {free:.0f} MB free there; the checkpoint before it is whole"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        if Path(path).suffix == SUFFIX:
            return load_weights(path)
        return super().load_checkpoint(path, map_location, weights_only=True)


def keep_earlier(path: Path, keep: int) -> None:
    """Moves `last.ckpt` to `last-1.ckpt` and that to `last-2.ckpt`, as far as `keep` files reach."""
    names = [path, *(path.with_name(f"{path.stem}-{age}{path.suffix}") for age in range(1, keep))]
    for newer, older in reversed(list(zip(names, names[1:], strict=False))):
        if newer != path:
            with suppress(FileNotFoundError):
                os.replace(newer, older)
        elif path.exists():
            older.unlink(missing_ok=True)
            try:
                os.link(path, older)  # a second name, so that there is a `last.ckpt` at every moment
            except OSError:  # not every file system has them
                os.replace(path, older)


def newest_whole(folder: Path) -> Path | None:
    """`last.ckpt` of a folder or, where that is damaged, the one before it; None where there is none.

    Raises:
        ValueError: if there are some, but all damaged.
    """
    kept = [path for path in (folder / "last.ckpt", *sorted(folder.glob("last-[0-9].ckpt"))) if path.exists()]
    for path in kept:
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if archive.testzip() is None:  # reads all of it and compares the checksums
                if path != kept[0]:
                    rank_zero_info(f"{kept[0]} is damaged: going on from {path}, the checkpoint before it")
                return path
    if kept:
        raise ValueError(f"no checkpoint in {folder} is whole: move the folder away to train anew")
    return None


def refuse_other_images(checkpoint: dict[str, Any], facts: dict[str, Any]) -> None:
    """Compares the images that a checkpoint was trained on with those at hand.

    Args:
        checkpoint: its `facts`.
        facts: name and value of each property that the networks are built from.

    Raises:
        ValueError: naming what differs.
    """
    there = checkpoint["facts"]
    differing = [
        f"{name} {there.get(name)} there, {here} here" for name, here in facts.items() if there.get(name) != here
    ]
    if differing:
        raise ValueError(f"the checkpoint is of another architecture: {'; '.join(differing)}; choose data like its own")


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` of the run folder current, and saves it before the process has to go.

    SIGTERM and SIGUSR1, with which clusters announce an end, and SIGINT (Ctrl-C) let the step (and the validation after
    it) finish; then the process saves and exits with 128 + the number of the signal: 143, 138 or 130, "start me again
    with --resume". A second Ctrl-C ends it at once.

    Args:
        every_n_steps: steps between two writes; one more at the end of training.
        keep: how many are kept: `last.ckpt`, and `last-1.ckpt` and so on before it, should it be damaged.
    """

    def __init__(self, every_n_steps: int = 500, keep: int = 2):
        if every_n_steps < 1:
            raise ValueError(f"LastCheckpoint every_n_steps must be at least 1, got {every_n_steps}")
        if not 1 <= keep <= 10:
            raise ValueError(f"LastCheckpoint keep must be from 1 to 10, got {keep}")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.saved_at = -1
        self.signal = 0  # the one that was received
        self.asks_at = 0  # the step at whose end processes ask each other for signals

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's handlers save in the middle of a step (SLURM), or wait for processes that do not answer.
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            handle(number, self.note)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self.asked = (trainer.global_step, time.monotonic())
        if trainer.is_global_zero:
            for leftover in self.path(trainer).parent.glob(".*.tmp"):  # of a process that was killed
                leftover.unlink()

    def note(self, number: int, frame: object) -> None:
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, end_at_once)
            tell("SIGINT: ends after this step (and its validation), when it has saved; again: at once, unsaved")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        # A checkpoint stands for all that belongs to its step: where a validation follows, it waits for it.
        if not trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            self.on_step_end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.on_step_end(trainer)

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.global_step == trainer.max_steps:
            return  # the last grid of samples is yet to come, and `on_train_end` after it
        number = self.agreed(trainer)
        if number or trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)
        if number:
            name = signal.Signals(number).name
            rank_zero_info(
                f"{name}: saved step {trainer.global_step} in {self.path(trainer)}; --resume goes on from it"
            )
            raise SystemExit(exit_code(number))

    def agreed(self, trainer: Trainer) -> int:
        """The signal that any process was sent. They ask each other every 2 s, not at every step: it waits for the GPU.

        At the same step on all of them: from the pace of the slowest follows when they ask again.
        """
        if trainer.world_size == 1:
            return self.signal
        if trainer.global_step < self.asks_at:
            return 0
        (step, then), self.asked = self.asked, (trainer.global_step, time.monotonic())
        pace = (self.asked[1] - then) / max(1, trainer.global_step - step)
        slowest = largest(int(1e6 * pace), trainer.strategy.root_device) / 1e6
        self.asks_at = trainer.global_step + max(1, int(BETWEEN_QUESTIONS / max(slowest, 1e-6)))
        return largest(self.signal, trainer.strategy.root_device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        if trainer.global_step != self.saved_at and not trainer.fast_dev_run:
            self.saved_at = trainer.global_step
            trainer.save_checkpoint(self.path(trainer), False, storage_options={"keep": self.keep})

    def path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps in `checkpoints/best.ckpt` of the run folder the step that scored best in validation.

    Args:
        monitor: curve that selects; the first metric of the model by default, nothing without one.
        mode: "min" or "max".
    """

    def __init__(self, monitor: str | None = None, mode: str = "min"):
        super().__init__(
            monitor=monitor, mode=mode, filename="best", save_top_k=1, enable_version_counter=False,
            save_on_train_epoch_end=False,
        )  # fmt: skip

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if self.monitor is None and stage == "fit":
            pl_module.load_metrics(stage)  # which gives them their names
            for metric in pl_module.scoring():
                self.monitor, self.mode = f"val/{metric.name}", "max" if metric.higher_is_better else "min"
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        path = str(Path(self.dirpath) / "best.ckpt")
        if state["best_model_path"] and Path(path).exists():  # not where a run goes on in a folder of its own
            # Lightning forgets the best score in a folder that was moved.
            state = state | {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict(state | {"best_k_models": {path: state["best_model_score"]}})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None:
            return
        super().on_validation_end(trainer, pl_module)
        self.tell(trainer)

    @rank_zero_only
    def tell(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "summarize"):
                logger.summarize({"best_checkpoint": self.best_model_path, "best": self.best_model_score})


class KeepConfig(Callback):
    """Keeps the resolved configuration with the run: as `config.yaml`, in the loggers, and in every checkpoint.

    Args:
        config: the whole configuration as YAML text.
        facts: of the data, which a checkpoint needs to be sampled from without it.
    """

    def __init__(self, config: str, facts: dict[str, Any]):
        self.config = config
        self.facts = facts
        self.versions = {"gan-template": __version__, **{name: version(name) for name in LIBRARIES}, "commit": commit()}

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer)  # not before: a run that was refused leaves no folder behind
        for logger in trainer.loggers:
            if hasattr(logger, "resume"):
                logger.resume(trainer.global_step)

    def write(self, trainer: Trainer) -> None:
        """Hands the configuration to the loggers, and writes the file."""
        for logger in trainer.loggers if trainer.enable_autolog_hparams else []:
            logger.log_hyperparams(yaml.safe_load(self.config))
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.config)

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "log_figures"):
                logger.log_figures("val", pl_module.results)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["facts"] = self.facts
        checkpoint["versions"] = self.versions
        if hasattr(data := trainer.datamodule, "digest"):
            told = {"data": type(data).__name__, "images": data.num_images("train"), "digest": data.digest("train")}
            checkpoint["trained_on"] = told
