"""Callbacks and plugins that no run can do without: naming others does not lose them."""

from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from src.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from src.callbacks.progress import StepBar
from src.commands.refusals import PRECISIONS


def with_essentials(trainer: dict[str, Any]) -> dict[str, list[Any]]:
    """The `callbacks` and `plugins` of the Trainer: those that were named, and the bar and the checkpoints of a run.

    One of these that was named itself, with options of its own, takes the place of the usual one.
    `enable_progress_bar: false` and `enable_checkpointing: false` leave them out.

    Args:
        trainer: its options, instantiated.

    Raises:
        ValueError: a plugin that writes checkpoints in another way, or of an arithmetic other than `check_trainer`'s.
    """
    callbacks, plugins = (listed(trainer.get(name)) for name in ("callbacks", "plugins"))
    bars, others = split(callbacks, StepBar)
    if trainer.get("enable_progress_bar") is not False:
        bars = bars[-1:] or ([] if any(isinstance(callback, ProgressBar) for callback in others) else [StepBar()])
        others += bars
    best, others = split(others, BestCheckpoint)
    last, others = split(others, LastCheckpoint)
    if trainer.get("enable_checkpointing") is not False:
        # In this order: the last checkpoint knows of the best.
        others += [*(best[-1:] or [BestCheckpoint()]), *(last[-1:] or [LastCheckpoint()])]
    for plugin in plugins:
        if isinstance(plugin, CheckpointIO) and not isinstance(plugin, AtomicCheckpointIO):
            raise ValueError(
                f"{type(plugin).__name__} cannot keep last.ckpt whole when a process dies: leave it out of"
                " --trainer.plugins, AtomicCheckpointIO writes the checkpoints"
            )
        if isinstance(plugin, Precision) and plugin.precision not in PRECISIONS:
            raise ValueError(
                f"{type(plugin).__name__} is not for two players: leave it out of --trainer.plugins, and take"
                " --trainer.precision 32-true, bf16-mixed or 16-mixed"
            )
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    return {"callbacks": others, "plugins": plugins}


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def split(callbacks: list[Callback], kind: type) -> tuple[list[Callback], list[Callback]]:
    """Those of a class, and the others."""
    of_kind = [callback for callback in callbacks if isinstance(callback, kind)]
    return of_kind, [callback for callback in callbacks if callback not in of_kind]


def say_what_is_missing(trainer: dict[str, Any], base: Path) -> None:
    """One line for each of what `fit` does without, because the options of the Trainer leave it out.

    Args:
        trainer: its options, instantiated.
        base: the configuration with the usual list of callbacks.
    """
    here = {type(callback).__name__ for callback in listed(trainer.get("callbacks"))}
    usual = [
        entry["class_path"].rpartition(".")[2] for entry in yaml.safe_load(base.read_text())["trainer"]["callbacks"]
    ]
    missing = [name for name in usual if name not in here]
    if missing:
        rank_zero_info(f"without {', '.join(missing)}: `trainer.callbacks` replaces these, `trainer.callbacks+` adds")
    if trainer.get("enable_checkpointing") is False:
        rank_zero_info("without checkpoints: this run cannot be resumed, scored or sampled once it has ended")
