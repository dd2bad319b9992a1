"""Runs experiments over several seeds through the command line, and puts their figures into a table.

A run that is finished is not repeated, so a study that was interrupted goes on where it stopped.
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from src.cli import main

FOLDER = Path("runs/studies")

Figures = dict[str, list[float]]  # name of a figure -> its value for each seed


def measure(name: str, arguments: list[str], seeds: Iterable[int], test: list[str] | None = None) -> Figures:
    """Trains and tests one experiment for each seed.

    Args:
        name: of the folder of its runs under `runs/studies`.
        arguments: of `fit`: `["--config", "configs/systems/gan_dense.yaml", ...]`.
        seeds: of the runs.
        test: further arguments of `test`.

    Returns:
        Each figure of `metrics.json`, a value a seed.
    """
    figures: Figures = {}
    for seed in seeds:
        run_dir = FOLDER / name / f"seed{seed}"
        result = run_dir / "metrics.json"
        if not result.exists():
            common = ["--run_dir", str(run_dir), "--trainer.logger", "false"]
            main(["fit", *arguments, *common, "--seed_everything", str(seed), "--resume"])
            main(["test", "--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt"), *(test or [])])
        for figure in json.loads(result.read_text())["results"]:
            figures.setdefault(figure["name"], []).append(figure["value"])
    return figures


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
