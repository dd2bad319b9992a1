"""What the studies share: runs over several seeds, and their figures in a table."""

from collections.abc import Collection
from pathlib import Path

from src.commands.results import read_figures, spread, table  # noqa: F401  of the studies
from src.commands.study import carry_out

FOLDER = Path("runs/studies")

Figures = dict[str, list[float]]  # name of a figure -> its value for each seed


def measure(name: str, arguments: list[str], seeds: Collection[int], test: list[str] | None = None) -> Figures:
    """Trains and tests one experiment for each seed, as `python -m src study` does; what is finished is only read.

    Args:
        name: of the folder of its runs under `runs/studies`.
        arguments: of `fit`: `["--config", "configs/systems/gan_dense.yaml", ...]`.
        seeds: of the runs.
        test: further arguments of `test`.

    Returns:
        Each figure of the ends of training, a value a seed.
    """
    folder = FOLDER / name
    carry_out({folder.name: [*arguments, "--trainer.logger", "false"]}, seeds, folder.parent, test)
    results = [read_figures(folder / f"seed{seed}" / "metrics.json") for seed in seeds]
    return {figure: [of[figure]["value"] for of in results] for figure in results[0]}
