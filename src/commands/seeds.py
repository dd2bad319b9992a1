"""The seed of a run: one number, that the weights begin with, that all noise is a function of, and that is recorded."""

import os
import random
from typing import Any

import yaml
from lightning.fabric.utilities.rank_zero import _get_rank

from src.engine.weights import read_checkpoint


def seed_of(run: Any, subcommand: str) -> int:
    """What `seed_everything` stands for: `true` for the seed of the run that goes on, or for one that is drawn.

    Args:
        run: options of the command.
        subcommand: that is given.

    Raises:
        ValueError: for `false`, or where processes that were started side by side would draw one each.
    """
    seed = run.seed_everything
    if seed is False and subcommand == "fit":
        raise ValueError(
            "seed_everything false would leave the first weights to chance: true draws a seed and keeps it"
        )
    if seed is not True:
        return int(seed)
    if run.get("ckpt_path"):
        return int(yaml.safe_load(read_checkpoint(run.ckpt_path)["config"])["seed_everything"])
    if _get_rank() is None and run.trainer.num_nodes == 1:
        return random.SystemRandom().randrange(2**32)
    if "PL_GLOBAL_SEED" not in os.environ:
        raise ValueError("seed_everything true would draw another seed in each process: give a number")
    return int(os.environ["PL_GLOBAL_SEED"])  # of the process that started this one
