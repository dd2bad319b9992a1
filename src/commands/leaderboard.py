"""The runs under a folder, best first: `python -m src leaderboard`."""

import json
import math
from os.path import relpath
from pathlib import Path

from src.commands.parser import reader
from src.commands.results import LEGEND, Figure, facts, labels, number, protocol, read_figures, table
from src.data.summary import amount
from src.metrics.report import words


def leaderboard(args: list[str]) -> None:
    """Write leaderboard.md: the figures of all runs under a folder, best first, unlike protocols apart.

    Args:
        args: words of the command line.

    Raises:
        ValueError: there are no figures under the folder.
    """
    parser = reader("leaderboard", leaderboard)
    parser.add_argument("folder", nargs="?", default="runs", help="of the runs and of the page; runs by default")
    folder = Path(parser.parse_args(args).folder)
    runs: dict[Path, list[Figure]] = {}
    for path in sorted(folder.rglob("metrics.json")):
        try:
            runs |= {path: figures} if (figures := list(read_figures(path).values())) else {}
        except ValueError as error:
            print(f"left out: {error}")
    if not runs:
        raise ValueError(f"no metrics.json under {folder}: `python -m src test --ckpt_path FILE` writes those of a run")
    alike: dict[str, dict[Path, list[Figure]]] = {}
    for path, figures in runs.items():
        alike.setdefault(protocol(figures[0]), {})[path] = figures
    page = "\n\n".join([f"# {folder}", *(section(of, folder) for of in alike.values()), LEGEND]) + "\n"
    (folder / "leaderboard.md").write_text(page)
    print(page, f"{folder / 'leaderboard.md'}: {amount(len(runs), 'run')}, {amount(len(alike), 'protocol')}", sep="\n")


def section(runs: dict[Path, list[Figure]], folder: Path) -> str:
    """The runs whose first figures may be compared: a table with a column for each figure and protocol."""
    columns = {protocol(figure): figure for figures in runs.values() for figure in figures}
    first, *_ = columns.values()
    sign = -1 if first.get("higher_is_better") else 1
    ranks = {path: sign * figures[0]["value"] for path, figures in runs.items()}
    rows = []
    for path in sorted(runs, key=lambda path: (math.isnan(ranks[path]), ranks[path])):
        figures = runs[path]
        cells = {protocol(figure): number(figure["value"], figure["error"]) for figure in figures}
        record = json.loads(path.read_bytes())
        told = [relpath(path.parent, folder), Path(record.get("checkpoint", "")).stem, str(record.get("step", ""))]
        rows.append([*told, *(cells.get(column, "") for column in columns)])
    header = ["run", "checkpoint", "step", *labels(columns.values())]
    return f"## {first['name']}\n\n{table(header, rows)}\n\n{first['name']}: {words(facts(first))}."
