"""Tables: of examples, and files of labels that lie beside images (labels.csv, or dataset.json of StyleGAN)."""

import csv
import io
import json
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from src.data.formats import SUFFIXES
from src.data.layout import slashed

NO_IMAGE = "names none of the images: give paths relative to it, or add --data.labels false"
LABELS = ("label", "labels", "class", "classname", "classid", "category", "target", "y")  # names of a column
FEW = 10  # classes that may have one image each


def rows_of(path: str | Path) -> list[dict[str, str | None]]:
    """The lines of a CSV file by the names in its header; None for the cells that a line lacks at its end.

    Raises:
        ValueError: a line has more cells than the header, or the file is not in UTF-8.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = []
            for row in (reader := csv.DictReader(file)):
                if None in row:  # 1,5 for 1.5, or a text with a comma: what is behind it would be lost
                    raise ValueError(
                        f"{path}, line {reader.line_num} has more cells than the header: put cells that hold commas"
                        " into quotes, and write numbers with points"
                    )
                rows.append(row)
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8 ({error}): export it again as CSV") from error


class LabelFile(NamedTuple):
    """What a file says of the labels."""

    of: dict[str, str]  # path of an image -> its class
    remarks: list[str]  # what was decided in reading it


def read_table(
    content: bytes, file: str, images: list[str], training: list[str], column: str | None = None
) -> LabelFile:
    """Labels from a table with a row an image, delimited by commas, semicolons or tabs; the header may be missing.

    The file column is the one that names the most images, see `matched`.

    Args:
        content: of the table.
        file: its name, for messages.
        images: paths relative to the folder of the table.
        training: those to train on.
        column: name of the column of labels, where several might be it.

    Raises:
        ValueError: the table cannot be read, names no image, does not say which label an image has, or holds captions.
    """
    try:
        text = content.decode("utf-8-sig")
        delimiter = max(",;\t", key=text.lstrip("\r\n").partition("\n")[0].count)
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no table in UTF-8 ({error}): export it again as CSV") from error
    width = max(map(len, rows), default=0)
    rows = [[cell.strip() for cell in row] + [""] * (width - len(row)) for row in rows]
    index = Index(images, training, file)
    found = [index.matched([row[number] for row in rows]) for number in range(width)]
    if not any(match.of for match in found):
        raise ValueError(f"{file} {NO_IMAGE}")
    place = max(range(width), key=lambda number: found[number].count)
    files = [row[place] for row in rows]
    has_header = files[0] not in found[place].of and not files[0].lower().endswith(SUFFIXES)
    header = rows.pop(0) if has_header else [""] * width
    chosen = label_column(header, place, column, file, has_header)
    entries = [(row[place], row[chosen]) for row in rows]
    labels = classes([label for _, label in entries], file)
    different = len({*labels} - {""})
    if different > max(FEW, len(labels) / 2) and column is None and not says_labels(header[chosen]):
        raise ValueError(
            f"{file} has {different:,} different labels of {len(labels):,} images, as captions are, which are not read:"
            " add --data.labels false; where they are classes, call their column label"
        )
    return index.labelled([(name, label) for (name, _), label in zip(entries, labels, strict=True)], found[place])


def label_column(header: list[str], place: int, column: str | None, file: str, has_header: bool) -> int:
    """Position of the column of labels."""
    others = [number for number, name in enumerate(header) if number != place and (name or not has_header)]
    names = ", ".join(header[number] for number in others)
    if column is not None:
        fitting = [number for number in others if header[number] == column]
        remedy = f"choose one of {names}" if has_header else "it has no header: add a first line with the names"
    else:
        fitting = [number for number in others if says_labels(header[number])] or others
        remedy = f"choose one with --data.label_column: {names}" if has_header else "add a first line with their names"
    if not others:
        raise ValueError(f"{file} has no column of labels: add one, or --data.labels false")
    if len(fitting) != 1:
        wanted = f"no column {column!r} beside that of the files" if column else f"{len(fitting)} columns of labels"
        raise ValueError(f"{file} has {wanted}: {remedy}; or add --data.labels false")
    return fitting[0]


def says_labels(name: str) -> bool:
    """Whether a column is called as those of labels are."""
    return re.sub(r"[^a-z]", "", name.lower()) in LABELS


def classes(labels: list[str], file: str) -> list[str]:
    """Labels as names of classes; empty ones stay empty."""
    labels = ["" if label.lower() == "nan" else label for label in labels]
    try:
        numbers = [float(label) for label in labels if label]
    except ValueError:
        return labels
    if broken := [number for number in numbers if not number.is_integer()]:
        raise ValueError(f"{file} holds numbers that name no class ({broken[0]}, ...): add --data.labels false")
    return [label.removesuffix(".0") for label in labels]  # what programs make of a 1 in a column with empty cells


def read_stylegan(content: bytes, file: str, images: list[str], training: list[str]) -> LabelFile | None:
    """Labels from {"labels": [["00000/img00000000.png", 6], ...]}, where null stands for none.

    Args:
        content: of the file.
        file: its name, for messages.
        images: paths relative to the folder of the file.
        training: those to train on.

    Returns:
        The labels, none of them where the file says that there are none; None if it is about something else.

    Raises:
        ValueError: it is no JSON, or a label is not a class.
    """
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}): repair or remove it") from error
    if not isinstance(whole, dict) or "labels" not in whole:
        return None
    if whole["labels"] is None:
        return LabelFile({}, [])
    try:
        pairs = {str(name): label for name, label in dict(whole["labels"]).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels of {file} are no pairs of a file and a number: repair it, or remove it") from error
    for name, label in pairs.items():
        if isinstance(label, bool) or not isinstance(label, (int, float)) or label != abs(label) // 1:
            said = f"a vector of {len(label)}" if isinstance(label, list) else repr(label)
            raise ValueError(
                f"the label of {name} in {file} is {said}, and a class is a whole number from 0: "
                "add --data.labels false for a model without classes"
            )
    index = Index(images, training, file)
    match = index.matched([*pairs])
    if pairs and not match.of:
        raise ValueError(f"{file} {NO_IMAGE}")
    return index.labelled([(name, str(int(label))) for name, label in pairs.items()], match)


class Match(NamedTuple):
    of: dict[str, list[str]]  # name in a file of labels -> paths of images that it may mean
    how: str

    @property
    def count(self) -> int:
        """Images that have a name of their own."""
        return min(len(self.of), len({path for paths in self.of.values() for path in paths}))


class Index:
    """Finds images by what a file of labels calls them.

    Args:
        images: paths.
        training: those to train on.
        file: the file of labels, for messages.
    """

    def __init__(self, images: list[str], training: list[str], file: str) -> None:
        self.training, self.file = {*training}, file
        self.by: list[dict[str, list[str]]] = [{}, {}, {}, {}]
        for path in images:
            for names, name in zip(self.by, spellings(path), strict=True):
                names.setdefault(name, []).append(path)

    def matched(self, names: list[str]) -> Match:
        """Images by path, or else path without suffix, or else file name, or else that without suffix.

        One way holds for all of them: that by which the most are found.
        """
        ways = ("", "by path without suffix", "by file name", "by file name without suffix")
        written = {name: spellings(slashed(name)) for name in {*names} - {""}}
        best = Match({}, "")
        for way, (how, known) in enumerate(zip(ways, self.by, strict=True)):
            of = {name: known[spelt[way]] for name, spelt in written.items() if spelt[way] in known}
            if (match := Match(of, how)).count > best.count:
                best = match
        return best

    def labelled(self, entries: list[tuple[str, str]], match: Match) -> LabelFile:
        """The labels of images; "" is none."""
        of: dict[str, str] = {}
        missing = 0
        for name, label in entries:
            if name not in match.of:
                missing += 1
                continue
            paths = match.of[name]
            if len(paths) > 1:  # 1.png of train/ and of test/: the labels that one has are those of train/
                paths = [path for path in paths if path in self.training]
            if len(paths) != 1:
                raise ValueError(
                    f"{name} in {self.file} may be {' or '.join(match.of[name][:3])}: give paths relative to the table"
                )
            if label and of.setdefault(paths[0], label) != label:
                raise ValueError(
                    f"{self.file} gives {paths[0]} the labels {of[paths[0]]} and {label}, and an image has one class: "
                    "correct it, or add --data.labels false"
                )
        name = Path(self.file).name
        remarks = [f"images matched with {name} {match.how}"] if match.how else []
        return LabelFile(of, remarks + ([f"{missing:,} labels of {name} are of no image here"] if missing else []))


def spellings(path: str) -> tuple[str, str, str, str]:
    """Path, path without suffix, file name, file name without suffix."""
    path = unicodedata.normalize("NFC", path)  # macOS writes é as e and an accent
    suffix = next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), "")
    bare = path[: len(path) - len(suffix)]
    return path, bare, path.rsplit("/", 1)[-1], bare.rsplit("/", 1)[-1]
