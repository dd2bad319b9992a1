"""Files that a user names and that are not there. No PyTorch here: these are refused before it is imported."""

import os
from pathlib import Path


def check_checkpoint(path: str) -> None:
    """Refuses a checkpoint that is not there.

    Raises:
        ValueError: naming it.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}: name a file, runs/mnist/checkpoints/last.ckpt for instance")


def near(path: str | Path) -> str:
    """A path as it is shown: relative where it lies in the current folder, otherwise from the root, without `..`."""
    whole = Path(os.path.abspath(path))
    return os.path.relpath(whole) if whole.is_relative_to(Path.cwd()) else str(whole)


def check_root(path: str | Path) -> None:
    """Refuses a folder or .zip of images that is not there.

    Raises:
        FileNotFoundError: naming it.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist: name a folder or a .zip of images with --data.root")
