"""What a run found in its data, in one line."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
LONGEST = 8  # entries of a list


@dataclass
class Findings:
    """What a source found besides its images.

    Args:
        source: the folder, the table, or the name of the data set.
        sizes: of the files, and what became of them, where they are not those of the images.
        classes: where they are from, "by folder"; or why there are none.
        held_out: where held-out images are from.
        left_out: how many files or images are not used, by their kind.
        remarks: what else was decided.
    """

    source: str
    sizes: str = ""
    classes: str = ""
    held_out: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


def sentence(data: Any, trains: bool = False) -> str:
    """Says what was found.

    Args:
        data: a loaded `ImageDataModule`.
        trains: whether to say as well what training makes of the images.
    """
    found = data.found
    amounts = {name: data.amount(name) for name in data.splits}
    class_sizes = dict(zip(data.class_names, data.class_sizes(), strict=True))
    size = found.sizes or "{}x{}".format(*data.image_size)
    by = f" {found.classes}" if found.classes and class_sizes else ""
    why = f" ({found.classes})" if found.classes and not class_sizes else ""
    classes = f"{len(class_sizes):,} classes{by} ({shortened(class_sizes)})" if class_sizes else f"no classes{why}"
    parts = [f"{found.source}: {amounts['train']}, {size} {CHANNELS[data.channels]}, {classes}"]
    if "test" in amounts:
        where = f" ({found.held_out})" if found.held_out else ""
        parts.append(f"{amounts['test']} held out{where}")
    left_out = Counter({kind: number for kind, number in found.left_out.items() if number})
    if left_out:
        kinds = [f"{number:,} {kind}" for kind, number in left_out.most_common(LONGEST)]
        others = [f"{len(left_out) - LONGEST} other kinds"] if len(left_out) > LONGEST else []
        parts.append(f"{left_out.total():,} left out: {', '.join(kinds + others)}")
    return printable("; ".join(parts + found.remarks + (seen(data) if trains else [])))


def seen(data: Any) -> list[str]:
    """What training makes of the images before the networks see them."""
    changes = []
    if data.measurement:
        filled = ", then filled in" if data.inpaint else ""
        changes.append(f"training sees them through {type(data.measurement).__name__}{filled} (data.measurement)")
    if data.flip:
        changes.append("each is used mirrored as well (--data.flip false switches that off)")
    return changes


def shortened(class_sizes: dict[str, int]) -> str:
    """The first classes with their sizes."""
    first = [f"{name}: {number:,}" for name, number in list(class_sizes.items())[:LONGEST]]
    return ", ".join(first + (["..."] if len(class_sizes) > LONGEST else []))


def amount(number: int, unit: str) -> str:
    return f"{number:,} {unit}" if number == 1 else f"{number:,} {unit}s"


def printable(text: str) -> str:
    """One line: a name of a file or class may hold line breaks, control codes, and bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
