"""Runs side by side: `python -m src compare`."""

import math
from os.path import commonpath, relpath
from pathlib import Path

from PIL import Image

from src.callbacks.curves import draw_runs, png, read
from src.callbacks.pictures import side_by_side
from src.commands.first import parsed
from src.commands.parser import reader
from src.commands.refusals import check_writable
from src.commands.results import LEGEND, Figure, arrow, differences, number, read_figures, scored, unlike

CLEAR = 2  # errors of a difference, beyond which it is called one


def compare(args: list[str]) -> None:
    """Put runs side by side: figures, what differs in their configurations, curves and samples in one picture each.

    Args:
        args: words of the command line.

    Raises:
        ValueError: what is named holds no figures and is no run, or two figures of one name were measured differently.
    """
    parser = reader("compare", compare)
    parser.add_argument("runs", nargs="+", metavar="runs", help="folders of runs, metrics.json, or what `score` wrote")
    parser.add_argument("--output", help="folder for the pictures; `comparison` beside the first run by default")
    given = parser.parse_args(args)
    folders = {run: Path(run) for run in given.runs if (Path(run) / "config.yaml").is_file()}
    output = Path(given.output or Path(given.runs[0]).parent / "comparison")
    if folders:
        check_writable(str(output), "--output")
    elif given.output:
        raise ValueError("--output is for the pictures of runs: name their folders, not their metrics.json")
    figures = {run: read_figures(Path(run)) for run in given.runs if run not in folders}
    figures |= {run: read_figures(folder / "metrics.json") for run, folder in folders.items() if scored(folder)}
    say_figures({run: figures[run] for run in given.runs if run in figures})
    for run, folder in folders.items():
        if not scored(folder):
            print(f"{run} has no figures yet: python -m src test --ckpt_path {folder / 'checkpoints' / 'last.ckpt'}")
    if len(folders) > 1:
        paths = [folder / "config.yaml" for folder in folders.values()]
        differing = differences([parsed(path.read_bytes(), str(path)) for path in paths])
        print("Options that differ:" if differing else "The configurations are the same.")
        for option, values in differing.items():
            print(f"  {option}: {' | '.join(map(str, values))}")
    if folders:
        above = commonpath([folder.resolve().parent for folder in folders.values()])
        drawn = draw({relpath(folder.resolve(), above): [folder] for folder in folders.values()}, output)
        print("Side by side:", *drawn)


def say_figures(runs: dict[str, dict[str, Figure]]) -> None:
    """Prints each figure of all runs, and whether the difference to the first run is more than its error."""
    names = dict.fromkeys(name for figures in runs.values() for name in figures)
    rows = {name: {run: figures[name] for run, figures in runs.items() if name in figures} for name in names}
    for name, having in rows.items():
        (first_run, first), *others = having.items()
        for run, figure in others:
            if differing := unlike(first, figure):
                raise ValueError(f"{name} of {first_run} and {run} cannot be compared: {'; '.join(differing)}")
    for name, having in rows.items():
        first = next(iter(having.values()))
        print(f"{name}{arrow(first)}")
        for run, figure in having.items():
            told = "" if figure is first else f"  {difference(first, figure)}"
            print(f"  {number(figure['value'], figure['error'])}  {run}{told}")
    if len(runs) > 1:
        print(f"{LEGEND} A difference counts from {CLEAR} of its errors on. These are of the samples alone:")
        print("two seeds of one configuration may differ by more, which `python -m src study` measures.")


def difference(first: Figure, other: Figure) -> str:
    """How much the second of two figures is above the first, and whether that is better, as far as their errors say."""
    more = other["value"] - first["value"]
    if first["error"] is None or other["error"] is None:
        return f"({more:+.4f})"
    error = math.hypot(first["error"], other["error"])
    better = {True: more > 0, False: more < 0}.get(first.get("higher_is_better"))
    verdict = {True: "better", False: "worse", None: "different"}[better]
    verdict = verdict if abs(more) > CLEAR * error else "no clear difference"
    return f"({more:+.4f} ± {error:.4f}: {verdict})"


def draw(runs: dict[str, list[Path]], output: Path) -> list[Path]:
    """Draws the curves of runs into one picture, and newest samples into another.

    Args:
        runs: folders by the name under which they are shown: of several the mean curves, and samples of the first.
        output: folder of the pictures.

    Returns:
        Those that there was something to draw for.
    """
    output.mkdir(parents=True, exist_ok=True)
    curves = {name: [read(folder / "metrics.csv") for folder in folders] for name, folders in runs.items()}
    grids = {name: [folder / "samples" / "latest.png" for folder in folders] for name, folders in runs.items()}
    newest = {name: [path for path in paths if path.is_file()][:1] for name, paths in grids.items()}
    pictures = {name: Image.open(path) for name, paths in newest.items() for path in paths}
    drawn = []
    if any(map(any, curves.values())):
        drawn.append(output / "curves.png")
        drawn[-1].write_bytes(png(draw_runs(curves)))
    if pictures:
        drawn.append(output / "samples.png")
        side_by_side(pictures).save(drawn[-1])
    return drawn
