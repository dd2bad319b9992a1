"""Checkpoints as files: reading those of a run, and the smaller ones that travel, without running code of theirs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from src.engine.paths import check_checkpoint

WEIGHTS = {"state_dict": dict, "global_step": int}  # held by every checkpoint of a `GAN`
HELD = {"config": str, "facts": dict, **WEIGHTS}  # by those of the command line
SUFFIX = ".safetensors"


def load_weights(path: str | Path) -> dict[str, Any]:
    """What `export` wrote, as a checkpoint: of a generator alone, or in older files of all but the optimizers."""
    with safe_open(path, framework="pt") as file:
        checkpoint = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
        if "facts" in checkpoint:
            checkpoint["facts"]["image_size"] = tuple(checkpoint["facts"]["image_size"])  # JSON knows lists alone
        checkpoint["state_dict"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    return checkpoint


def complete(checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Gives the weights of a generator alone the names that they have in a model, whose other weights stay.

    Raises:
        ValueError: a figure asks the discriminator, which was left behind.
    """
    asking = [type(metric).__name__ for metric in model.metrics if metric.asks_discriminator]
    if asking:
        raise ValueError(f"{asking[0]} asks the discriminator, and the file holds a generator alone: take the .ckpt")
    players = ("generator.", "generator_ema.") if model.ema else ("generator.",)
    theirs = {player + name: weight for player in players for name, weight in checkpoint["state_dict"].items()}
    others = {name: weight for name, weight in model.state_dict().items() if not name.startswith(players)}
    checkpoint["state_dict"] = others | theirs


def read_checkpoint(path: str, needed: dict[str, type] = HELD) -> dict[str, Any]:
    """Reads a checkpoint of this project, or its weights alone, without running any code that it may contain.

    Args:
        path: of the file.
        needed: what it must hold.

    Raises:
        ValueError: if there is none, if it is damaged, or if something else wrote it.
    """
    check_checkpoint(path)
    try:
        if Path(path).suffix == SUFFIX:
            checkpoint = load_weights(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: truncated, or not one at all ({type(error).__name__}); "
            "name another one, best.ckpt for instance"
        ) from error
    held = checkpoint if isinstance(checkpoint, dict) else {}
    for name, kind in needed.items():
        if not isinstance(held.get(name), kind):
            raise ValueError(f"{path} was not written by this project: it holds no {name}; name one that `fit` wrote")
    return checkpoint
