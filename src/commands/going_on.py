"""A run that goes on with other options: what is honoured is said, what cannot be is refused."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from src.commands.remembered import OF_THE_MACHINE
from src.engine.optimizers import advance, kept_by, names

PLAYERS = ("g", "d")  # in the order of their optimizers
# Not options of the mathematics; what belongs to the machine may be another one without any of them (`devices: auto`).
NO_OPTIONS = ("config", "run_dir", "ckpt_path", "init_from", "resume", *(f"trainer.{name}" for name in OF_THE_MACHINE))
# What leaves the mathematics alone: the whole Trainer but for these, and little else.
INEXACT = ("benchmark", "deterministic", "matmul_precision", "plugins", "precision", "sync_batchnorm", "threads")
EXACT = ("model.metrics", "model.on_nonfinite", "model.test_images", "model.val_images")
EXACT += ("data.cache_dir", "data.download", "data.num_workers")


def changes(old: Any, new: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """What differs between two configurations: the name of each option, its old and its new value."""
    if name in NO_OPTIONS or old == new:
        return {}
    if isinstance(old, dict) and isinstance(new, dict) and old.get("class_path") == new.get("class_path"):
        pairs = [(key, old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and list(map(shown, old)) == list(map(shown, new)):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(old, new, strict=True))]
    else:
        return {name: (old, new)}
    found = {}
    for key, before, after in pairs:
        if key == "init_args":
            found |= changes(before or {}, after or {}, name)
        else:
            found |= changes(before, after, f"{name}.{key}".lstrip("."))
    return found


def is_exact(name: str) -> bool:
    """Whether a run with another value of this option is still the same run, to the last bit."""
    section, _, option = name.partition(".")
    return option.split(".")[0] not in INEXACT if section == "trainer" else name.startswith(EXACT)


def shown(value: Any) -> str:
    """A value as a line shows it: of an object its class."""
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"]
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith(("src.", "torch.")) else str(value)


class GoingOn(Callback):
    """Lets a run go on with the options of today where the checkpoint would bring back those of yesterday.

    The state of an optimizer (moments, say) is that of the checkpoint. Where an option of a player's optimizer or
    schedule has changed, all of them are those of today, and the rate is what today's schedule has at this step.

    Args:
        model: the `GAN`, not restored yet.
        checkpoint: to go on from.
        old: configuration that it was trained with.
        new: that of today.
        inside: whether it goes on in its own folder, whatever that is called today.

    Raises:
        ValueError: the state of an optimizer does not fit the one of today.
    """

    def __init__(
        self, model: LightningModule, checkpoint: dict[str, Any], old: dict[str, Any], new: dict[str, Any], inside: bool
    ):
        self.changes = changes(old, new)
        self.folders = (old["run_dir"], new["run_dir"]) if inside else None
        self.scheduled = [bool(old["model"].get(f"{player}_scheduler")) for player in PLAYERS]
        self.changed = []
        for number, (player, make) in enumerate(zip(PLAYERS, model.optimizer_callables, strict=True)):
            optimizer, scheduler = f"model.{player}_optimizer", f"model.{player}_scheduler"
            told = {name: pair for name, pair in self.changes.items() if name.startswith((optimizer, scheduler))}
            self.changed.append(bool(told))
            there = names(checkpoint["optimizer_states"][number]["state"])
            if told and there:
                needed = kept_by(make, model.make_optimizers()[number])
                fits = needed == there if optimizer in told else needed <= there
                if not fits:
                    raise ValueError(
                        f"{listed(told)}: the checkpoint keeps {', '.join(sorted(there))}, this optimizer"
                        f" {', '.join(sorted(needed)) or 'nothing'}; leave that out, or train anew in another --run_dir"
                    )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if 0 <= trainer.max_steps <= checkpoint["global_step"]:
            rank_zero_info(f"all {trainer.max_steps} steps are done: a larger --trainer.max_steps goes on")
        if self.folders:  # Lightning's ModelCheckpoint forgets its best in a folder of another name
            checkpoint["callbacks"] = moved(checkpoint["callbacks"], *self.folders)
        optimizers, schedulers = pl_module.configure_optimizers()
        saved = iter(checkpoint["lr_schedulers"])
        saved = [next(saved) if scheduled else None for scheduled in self.scheduled]
        checkpoint["lr_schedulers"] = []
        for number, optimizer in enumerate(optimizers):
            for scheduler in (scheduler for scheduler in schedulers if scheduler.optimizer is optimizer):
                if self.changed[number]:
                    advance(scheduler, checkpoint["global_step"])
                    saved[number] = scheduler.state_dict()
                checkpoint["lr_schedulers"].append(saved[number])
            if self.changed[number]:
                checkpoint["optimizer_states"][number]["param_groups"] = optimizer.state_dict()["param_groups"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for timer in trainer.callbacks:
            if isinstance(timer, Timer) and timer.time_remaining() is not None:
                seconds = (timer.time_elapsed(), max(timer.time_remaining(), 0))
                over, left = (timedelta(seconds=round(number)) for number in seconds)
                before = f"counts what came before, too: {over} are over" if over else "begins to count here"
                rank_zero_info(f"max_time {before}, {left} are left")
        if self.changes:
            after = ": honoured; from here on the run is not bit by bit the one that it was"
            after = "" if all(map(is_exact, self.changes)) else after
            rank_zero_info(f"going on from step {trainer.global_step} with {listed(self.changes)}{after}")


def moved(state: Any, old: str, new: str) -> Any:
    """The state of callbacks with the paths in a folder that is called otherwise now."""
    if isinstance(state, dict):
        return {moved(key, old, new): moved(value, old, new) for key, value in state.items()}
    inside = isinstance(state, str) and Path(state).is_relative_to(old)
    return str(Path(new, Path(state).relative_to(old))) if inside else state


def listed(changes: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {shown(old)} -> {shown(new)}" for name, (old, new) in changes.items())
