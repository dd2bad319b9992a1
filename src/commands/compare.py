"""Figures of several runs side by side: `python -m src compare`."""

import json
from pathlib import Path
from typing import Any

# What may differ between two figures that are compared: it is what one compares.
FREE = ("seed", "step", "generator", "real", "fake", "trained_on")


def compare(files: list[str]) -> None:
    """Put the figures of several metrics.json side by side; figures of unlike protocol are refused.

    Args:
        files: written by `test` or `score`.

    Raises:
        ValueError: a file that is none, or two figures of one name that were measured differently.
    """
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for file in files:
        try:
            figures = json.loads(Path(file).read_bytes())["results"]
            wanted = ("value", "error", "protocol")
            runs[file] = {figure["name"]: {key: figure[key] for key in wanted} for figure in figures}
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no figures: name a metrics.json that `test` or `score` wrote") from error
    for name in dict.fromkeys(name for figures in runs.values() for name in figures):
        having = {file: figures[name] for file, figures in runs.items() if name in figures}
        (first_file, first), *others = having.items()
        for file, figure in others:
            unlike = [
                f"{key} {first['protocol'].get(key)} and {figure['protocol'].get(key)}"
                for key in sorted(first["protocol"].keys() | figure["protocol"].keys())
                if key not in FREE and first["protocol"].get(key) != figure["protocol"].get(key)
            ]
            if unlike:
                raise ValueError(f"{name} of {first_file} and {file} cannot be compared: {'; '.join(unlike)}")
        print(name)
        for file, figure in having.items():
            error = "" if figure["error"] is None else f" ± {figure['error']:.4f}"
            print(f"  {figure['value']:.4f}{error}  {file}")
