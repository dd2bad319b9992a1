"""What runs leave behind, read again: figures that may be compared or not, configurations, and tables of them."""

import json
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

from src.metrics.report import flat

# What may differ between two figures that are compared: it is what one compares.
FREE = ("seed", "step", "generator", "real", "fake", "trained_on")
OF_THE_FOLDER = ("run_dir", "ckpt_path", "resume", "minutes", "trainer.default_root_dir", "model.seed")
ARROWS = {False: " ↓", True: " ↑", None: ""}
LEGEND = "↓: lower is better, ↑: higher is better."

Figure = dict[str, Any]


def read_figures(path: Path) -> dict[str, Figure]:
    """The figures of a `metrics.json`, or of what `score` wrote, by their names.

    Raises:
        ValueError: the file is none of these.
    """
    try:
        figures = {figure["name"]: figure for figure in json.loads(path.read_bytes())["results"]}
        for figure in figures.values():
            figure["value"] = float(figure["value"])
            figure["error"] = None if figure["error"] is None else float(figure["error"])
            figure["protocol"] = flat(figure["protocol"])
        return figures
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no figures: name a metrics.json that `test` or `score` wrote, or the folder of a run"
        ) from error


def scored(folder: Path) -> bool:
    return (folder / "metrics.json").is_file()


def facts(figure: Figure) -> dict[str, Any]:
    """Of a protocol what two figures must have in common to be compared."""
    return {key: value for key, value in figure["protocol"].items() if key not in FREE}


def protocol(figure: Figure) -> str:
    """Name and facts of a figure: the same for those that may be compared."""
    return json.dumps([figure["name"], facts(figure)], sort_keys=True, default=str)


def unlike(one: Figure, other: Figure) -> list[str]:
    """How the facts of two figures differ, in words."""
    first, second = facts(one), facts(other)
    names = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    return [f"{name} {first.get(name)} and {second.get(name)}" for name in names]


def labels(figures: Collection[Figure]) -> list[str]:
    """Names of figures, with which way is better, and what tells those of one name from the first of them."""
    first: dict[str, Figure] = {}
    differing = [unlike(first.setdefault(figure["name"], figure), figure) for figure in figures]
    return [
        figure["name"] + arrow(figure) + (f" ({'; '.join(how)})" if how else "")
        for figure, how in zip(figures, differing, strict=True)
    ]


def arrow(figure: Figure) -> str:
    """Which way is better; nothing where the file does not say it."""
    return ARROWS[figure.get("higher_is_better")]


def number(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation, of several runs as a rule."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def options(config: Any, name: str = "") -> dict[str, Any]:
    """A configuration in one level, its options as they are typed; those of the folder alone are left out."""
    inner = enumerate(config) if isinstance(config, list) else config.items() if isinstance(config, dict) else ()
    found: dict[str, Any] = {} if inner and config else {name: config}
    for key, value in inner:
        plain = name if key in ("class_path", "init_args") else f"{name}.{key}".removeprefix(".")
        if plain not in OF_THE_FOLDER and (key, value) != ("init_args", {}):
            found |= options(value, plain)
    return found


def differences(configs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Options in which configurations differ, with the value of each; "-" where one has no such."""
    flattened = [options(config) for config in configs]
    names = dict.fromkeys(name for config in flattened for name in config)
    values = {name: [config.get(name, "-") for config in flattened] for name in names}
    return {name: of for name, of in values.items() if any(value != of[0] for value in of)}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
