"""The curves of a run, drawn from its `metrics.csv`."""

import csv
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Curve = tuple[list[int], list[float]]  # steps and values
SIZE, DPI = (6.0, 3.6), 120  # of a panel: inches, dots an inch

# Title, unit, and the columns of a panel; those that stand in none get one of their own, called by what is before "/".
PANELS = {
    "Losses": ("loss", ["loss/"]),
    "Logits of the training batches": ("mean logit", ["logits/real", "logits/fake"]),
    "Norms of the gradients": ("norm", ["grad_norm/"]),
    "Validation": ("figure", ["val/"]),
    "Discriminator on images it has and has not seen": (
        "mean logit",
        ["logits/train", "logits/held_out", "logits/generated"],
    ),
    "Judged rightly by the discriminator": ("share of images", ["accuracy/"]),
    "Overfitting (0 none, 1 complete), diversity (1 as real)": ("ratio", ["overfitting", "diversity"]),
    "Learning rates": ("rate", ["lr/"]),
}
HIDDEN = ("step", "images_seen")


def read(path: Path) -> dict[str, Curve]:
    """The curves of a `metrics.csv` by the names of its columns; none where there is no file."""
    curves: dict[str, Curve] = {}
    if path.is_file():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in HIDDEN:
                        steps, values = curves.setdefault(name, ([], []))
                        steps.append(int(row["step"]))
                        values.append(float(text))
    twice = [a for a in curves for b in curves if b.startswith(f"{a}-") and curves[a] == curves[b]]  # short names
    return {name: curve for name, curve in curves.items() if name not in twice}


def panels(curves: dict[str, Curve]) -> dict[str, tuple[str, dict[str, Curve]]]:
    """Title, unit and curves of each panel that has some."""
    found: dict[str, tuple[str, dict[str, Curve]]] = {}
    left = dict.fromkeys(name for name in sorted(curves) if not name.endswith("-error"))
    for title, (unit, names) in PANELS.items():
        mine = {name: curves[name] for name in left if name.startswith(tuple(names))}
        for name in mine:
            left.pop(name, None)
        if mine:
            found[title] = unit, mine
    for name in left:
        title = name.split("/")[0].replace("_", " ").capitalize()
        found.setdefault(title, (title.lower(), {}))[1][name] = curves[name]
    return found


def draw(curves: dict[str, Curve]) -> tuple[Image.Image, dict[str, Image.Image]]:
    """One picture of all panels in two columns, and each panel by its title.

    Args:
        curves: at least one.
    """
    return drawn(panels(curves), curves, columns=2)


def draw_runs(runs: dict[str, list[dict[str, Curve]]]) -> Image.Image:
    """One picture with a panel for each curve, and in it a line for each name: the mean of its runs.

    Around it lies the standard deviation over these, or of a single run the error of a figure.

    Args:
        runs: curves by the names of what is compared, of one or more runs each.
    """
    every = {name: curve for several in runs.values() for curves in several for name, curve in curves.items()}
    shown: dict[str, tuple[str, dict[str, Curve]]] = {}
    bands: dict[str, Curve] = {}
    for unit, names in sorted(panels(every).values(), key=lambda panel: panel[0] != "figure"):  # the figures first
        for curve in names:
            shown[curve] = unit, {}
            for name, mine in runs.items():
                line = f"{curve.replace('/', ' ')}/{name}"  # of which the legend shows what follows the slash
                shown[curve][1][line], deviation = mean([of.get(curve) for of in mine])
                band = deviation if len(mine) > 1 else mine[0].get(f"{curve}-error")
                bands |= {f"{line}-error": band} if band else {}
    of = "deviation over the runs" if any(len(mine) > 1 for mine in runs.values()) else "its error"
    return drawn(shown, bands, columns=3, of=of)[0]


def mean(curves: list[Curve | None]) -> tuple[Curve, Curve]:
    """Mean and standard deviation of curves at the steps that all of those have that are there."""
    values = [dict(zip(*curve, strict=True)) for curve in curves if curve]
    if not values:
        return ([], []), ([], [])
    steps = sorted(set.intersection(*map(set, values)))
    at = np.array([[of[step] for step in steps] for of in values])
    return (steps, at.mean(0).tolist()), (steps, at.std(0, ddof=min(1, len(values) - 1)).tolist())


def drawn(
    shown: dict[str, tuple[str, dict[str, Curve]]], bands: dict[str, Curve], columns: int, of: str = "its error"
) -> tuple[Image.Image, dict[str, Image.Image]]:
    """One picture of panels, and each of them by its title.

    Args:
        shown: title of a panel; its unit and its curves by their names.
        bands: `NAME-error`, what lies around the curve of that name.
        columns: panels side by side.
        of: what the bands are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it would slow the start of every command
    from matplotlib.figure import Figure

    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure((SIZE[0] * columns, SIZE[1] * rows), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    parts = figure.subfigures(rows, columns, squeeze=False).flat
    for part, (title, (unit, mine)) in zip(parts, shown.items(), strict=False):
        # Fixed margins: to lay them out takes as long as to draw.
        margins = {"left": 0.12, "right": 0.97, "bottom": 0.28, "top": 0.9}
        plot(part.subplots(gridspec_kw=margins), title, unit, mine, bands, of)
    canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")
    width, height = picture.width // columns, picture.height // rows
    places = [(i % columns * width, i // columns * height) for i in range(len(shown))]
    return picture, {
        title: picture.crop((x, y, x + width, y + height)) for title, (x, y) in zip(shown, places, strict=True)
    }


def plot(axes: Any, title: str, unit: str, mine: dict[str, Curve], bands: dict[str, Curve], of: str) -> None:
    """Lines in the axes of one panel; points too where there are few, and the band around those that have one."""
    finite = [v for _, values in mine.values() for v in values if math.isfinite(v)]
    for number, (name, (steps, values)) in enumerate(mine.items()):
        bad = sum(not math.isfinite(v) for v in values)
        label = (name.partition("/")[2] or name).replace("_", " ") + (f" ({bad} not finite)" if bad else "")
        clean = [v if math.isfinite(v) else math.nan for v in values]
        look = {"lw": 1.2, "ms": 3, "marker": "o" if len(steps) < 30 else None}
        (line,) = axes.plot(steps, clean, label=label, ls="-" if number == 0 else (number, (4, 1)), **look)
        if f"{name}-error" in bands:
            at = dict(zip(*bands[f"{name}-error"], strict=True))
            low, high = ([v + sign * at.get(s, 0.0) for s, v in zip(steps, clean, strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, alpha=0.2, color=line.get_color(), lw=0)
    if unit == "share of images":
        axes.set_ylim(-0.03, 1.03)
    elif finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    banded = any(f"{name}-error" in bands for name in mine)
    axes.set_ylabel(f"{unit} ± {of}" if banded else unit, fontsize=8)
    axes.tick_params(which="both", labelsize=8)
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.grid(alpha=0.3, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)


def png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
