"""Checkpoints as files: reading those of a run, and the smaller ones that travel, without running code of theirs."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

HELD = {"config": str, "facts": dict, "state_dict": dict, "global_step": int}  # by every checkpoint
SUFFIX = ".safetensors"


def export(ckpt_path: str, output: str) -> None:
    """Write what `validate`, `test` and `predict` need of a checkpoint, as safetensors: no optimizers, no code.

    Args:
        ckpt_path: checkpoint to take the weights from.
        output: the file, .safetensors, which takes the place of a checkpoint in these commands.

    Raises:
        ValueError: as `read_checkpoint`, or for another suffix.
        OSError: the file cannot be written; one that was there before is whole.
    """
    if Path(output).suffix != SUFFIX:
        raise ValueError(f"--output {output} must end in {SUFFIX}")
    checkpoint = read_checkpoint(ckpt_path)
    weights = {name: weight.contiguous() for name, weight in checkpoint.pop("state_dict").items()}
    told = {name: checkpoint[name] for name in (*HELD, "versions", "pytorch-lightning_version") if name in checkpoint}
    temporary = Path(f"{output}.tmp")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, temporary, metadata={"checkpoint": json.dumps(told)})
        os.replace(temporary, output)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f"{output} could not be written ({error}): choose another --output") from error
    print(f"step {told['global_step']} of {ckpt_path} in {output}, {Path(output).stat().st_size / 1e6:.1f} MB")


def load_weights(path: str | Path) -> dict[str, Any]:
    """What `export` wrote, as a checkpoint without optimizers."""
    with safe_open(path, framework="pt") as file:
        checkpoint = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
        if "facts" in checkpoint:
            checkpoint["facts"]["image_size"] = tuple(checkpoint["facts"]["image_size"])  # JSON knows lists alone
        checkpoint["state_dict"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    return checkpoint


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a checkpoint of this project, or its weights alone, without running any code that it may contain.

    Raises:
        ValueError: if there is none, if it is damaged, or if something else wrote it.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}: name a file, runs/digits/checkpoints/last.ckpt for instance")
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
    for name, kind in HELD.items():
        if not isinstance(held.get(name), kind):
            raise ValueError(f"{path} was not written by this project: it holds no {name}; name one that `fit` wrote")
    return checkpoint
