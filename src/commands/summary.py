"""The table and the pictures of a study."""

import csv
import json
import math
import shlex
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from src.commands.compare import draw
from src.commands.first import versions
from src.commands.results import LEGEND, Figure, labels, protocol, read_figures, scored, spread, table

KINDS = {"last": "", "best": "best"}  # checkpoint -> where in the folder of a run its figures are
Values = dict[int, float]  # by seed


class Study(NamedTuple):
    """What a study is about.

    Args:
        folder: where `ARM/seedN` are the runs.
        arms: names and their options of `fit`.
        seeds: of the runs of each.
        base: options of all arms.
    """

    folder: Path
    arms: dict[str, list[str]]
    seeds: list[int]
    base: list[str]

    def run(self, arm: str, seed: int) -> Path:
        return self.folder / arm / f"seed{seed}"

    def runs(self) -> list[Path]:
        return [self.run(arm, seed) for arm in self.arms for seed in self.seeds]

    def unfinished(self) -> list[Path]:
        return [run for run in self.runs() if not finished(run)]

    def figures(self, arm: str, kind: str) -> dict[int, dict[str, Figure]]:
        """Those of an arm that there are, by seed and protocol."""
        folders = {seed: self.run(arm, seed) / KINDS[kind] for seed in self.seeds}
        read = {seed: read_figures(folder / "metrics.json") for seed, folder in folders.items() if scored(folder)}
        return {seed: {protocol(figure): figure for figure in of.values()} for seed, of in read.items()}


def scores(run_dir: Path) -> dict[Path, Path]:
    """The checkpoints of a run that are scored, and the folders of their figures."""
    checkpoints = {run_dir / "checkpoints" / f"{kind}.ckpt": run_dir / place for kind, place in KINDS.items()}
    return {path: folder for path, folder in checkpoints.items() if path.is_file()}


def finished(run_dir: Path) -> bool:
    return scored(run_dir) and all(map(scored, scores(run_dir).values()))


def reason(run_dir: Path) -> str:
    """Why a run is not finished: the last error of its log, or its last line."""
    path = run_dir / "log.txt"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    told = [line for line in lines if "error: " in line] or [line for line in lines if line.strip()]
    return told[-1].rpartition("error: ")[2].strip() if told else "not begun"


def summarize(study: Study) -> None:
    """Writes the table of a study as Markdown and CSV, its curves and its samples; what is missing is said there."""
    first, *others = study.arms
    header = ["figure", "checkpoint", *study.arms, *(f"{arm} - {first}" for arm in others)]
    rows, records = [], []
    for kind in KINDS:
        of = {arm: study.figures(arm, kind) for arm in study.arms}
        every = {key: figure for seeds in of.values() for figures in seeds.values() for key, figure in figures.items()}
        for (key, figure), label in zip(every.items(), labels(every.values()), strict=True):
            values = {
                arm: {seed: figures[key]["value"] for seed, figures in seeds.items() if key in figures}
                for arm, seeds in of.items()
            }
            gains = {arm: pairs(values[first], values[arm]) for arm in others}
            cells = [spread(list(mine.values()), 4) if mine else "" for mine in values.values()]
            rows.append([label, kind, *cells, *map(difference, gains.values())])
            records += [
                {"figure": figure["name"], "checkpoint": kind, "arm": arm, "mean": mean(mine.values())}
                | {"deviation": deviation(mine.values()), "difference": mean(gains.get(arm, []))}
                | {"error": error(gains.get(arm, []))} | {f"seed{seed}": mine.get(seed) for seed in study.seeds}
                for arm, mine in values.items()
            ]  # fmt: skip
    page = "\n\n".join([f"# {study.folder.name}", *about(study), table(header, rows), *notes(study)])
    (study.folder / "table.md").write_text(page + "\n")
    print(f"\n{page}\n")
    with open(study.folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, records[0] if records else [])
        writer.writeheader()
        writer.writerows(records)
    drawn = draw({arm: [study.run(arm, seed) for seed in study.seeds] for arm in study.arms}, study.folder)
    print(study.folder / "table.md", study.folder / "table.csv", *drawn)


def pairs(one: Values, other: Values) -> list[float]:
    """The second less the first, for each seed that both have."""
    return [other[seed] - one[seed] for seed in one if seed in other]


def mean(values: Collection[float]) -> float | None:
    return statistics.fmean(values) if values else None


def deviation(values: Collection[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def error(values: Collection[float]) -> float | None:
    """Of their mean."""
    return deviation(values) / math.sqrt(len(values)) if len(values) > 1 else None


def limit(number: int) -> float:
    """Errors on each side of a mean of so many values that its 95 % interval reaches: Student's distribution."""
    from scipy.stats import t  # here: it would slow the start of every command

    return t.ppf(0.975, number - 1)


def difference(pairs: list[float]) -> str:
    if len(pairs) < 2:
        return f"{pairs[0]:+.4f}" if pairs else ""
    told = f"{mean(pairs):+.4f} ± {error(pairs):.4f}"
    return f"**{told}**" if abs(mean(pairs)) > limit(len(pairs)) * error(pairs) else told


def about(study: Study) -> list[str]:
    """What was run, and how long a run took."""
    rows = []
    for arm, options in study.arms.items():
        done = [run for run in (study.run(arm, seed) for seed in study.seeds) if finished(run)]
        seconds = [note["seconds"] for note in map(noted, done) if note]
        told = f"`{shlex.join(options)}`" if options else ""
        rows.append([arm, told, f"{len(done)} of {len(study.seeds)}", f"{mean(seconds):.0f}" if seconds else ""])
    seeds = ", ".join(map(str, study.seeds))
    return [f"`{shlex.join(study.base)}`, seeds {seeds}.", table(["arm", "its options", "runs", "s a run"], rows)]


def noted(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "study.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def notes(study: Study) -> list[str]:
    """How to read the table, what is missing in it, and where it was measured."""
    told, number = [f"{LEGEND} Mean ± standard deviation over the seeds."], len(study.seeds)
    if len(study.arms) > 1:
        told.append("A difference is the mean over the seeds that both arms have, ± its standard error.")
    if len(study.arms) > 1 and number > 1:
        told[-1] += f" Bold: 0 is outside of its 95 % interval, {limit(number):.2f} errors at {number} seeds;"
        told[-1] += " of twenty differences that are none, one is bold by chance."
    if any(scored(run / KINDS["best"]) for run in study.runs()):
        told.append("`last`: the end of training; `best`: the step that scored best in validation, by one figure.")
    if left := study.unfinished():
        told.append("Not done, and tried again by the same command:")
        told.append("\n".join(f"- {run.relative_to(study.folder)}: {reason(run)}" for run in left))
    machines = {noted(run).get("machine") for run in study.runs()} - {None}
    return [*told, *(f"{machine}; the time includes start and scores." for machine in sorted(machines)), versions()]
