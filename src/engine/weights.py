"""Checkpoints as files: reading those of a run, and the smaller ones that travel, without running code of theirs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from src.engine.paths import check_checkpoint

WEIGHTS = {"state_dict": dict, "global_step": int}  # held by every checkpoint of a `GAN`
HELD = {"config": str, "facts": dict, **WEIGHTS}  # by those of the command line
SUFFIX = ".safetensors"


def load_weights(path: str | Path) -> dict[str, Any]:
    """What `export` wrote, as a checkpoint without optimizers."""
    with safe_open(path, framework="pt") as file:
        checkpoint = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
        if "facts" in checkpoint:
            checkpoint["facts"]["image_size"] = tuple(checkpoint["facts"]["image_size"])  # JSON knows lists alone
        checkpoint["state_dict"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    return checkpoint


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
