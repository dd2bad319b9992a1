"""The folder of a run: as it is called, or the next one that is free."""

import atexit
import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import _get_rank

AUTO = "auto"
HANDED_ON = "GAN_RUN_DIR"  # by the process that started this one


def run_folder(run_dir: str | None, root: str | None, configs: list[str]) -> str:
    """Folder of a run: as it is called, that of the Trainer, or one that is named after the first configuration."""
    return run_dir or root or f"runs/{Path(configs[0]).stem if configs else 'gan'}"


def new_folder(run: Any, configs: list[str]) -> str:
    """Folder of a new run; of a sweep, and with `--run_dir auto`, the next free one: runs/digits, runs/digits-2, ...

    Args:
        run: options of `fit`.
        configs: paths of its configurations.

    Raises:
        ValueError: `auto` for a run that goes on, or in processes that would choose a folder each.
    """
    auto = run.run_dir == AUTO
    folder = run_folder(None if auto else run.run_dir, run.trainer.default_root_dir, configs)
    if auto and run.resume:
        raise ValueError("--run_dir auto is a new folder, and --resume goes on in an old one: leave one of them out")
    if not auto and (run.resume or run.ckpt_path or "WANDB_SWEEP_ID" not in os.environ):
        return folder
    if _get_rank() is not None or run.trainer.num_nodes > 1:
        if HANDED_ON not in os.environ:
            raise ValueError("each process would choose a folder of its own: name one with --run_dir")
        return os.environ[HANDED_ON]
    os.environ[HANDED_ON] = free(folder)
    return os.environ[HANDED_ON]


def free(folder: str) -> str:
    """The first of folder, folder-2, ... that does not exist; made at once, so that no other process takes it."""
    for name in itertools.chain([folder], (f"{folder}-{number}" for number in itertools.count(2))):
        with suppress(FileExistsError):
            Path(name).mkdir(parents=True)
            atexit.register(remove_if_empty, name)
            if name != folder:
                print(f"{folder} is taken: this run goes into {name}", flush=True)
            return name
    raise AssertionError("numbers do not end")


def remove_if_empty(folder: str) -> None:
    """A run that was refused leaves no folder behind."""
    with suppress(OSError):
        os.rmdir(folder)
