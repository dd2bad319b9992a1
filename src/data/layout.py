"""What lies in a folder or a .zip: images, which of them are held out, and what else."""

import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from src.data.files import zip_names
from src.data.formats import SUFFIXES
from src.engine.paths import check_root

COMPANIONS = (  # ends of names that nobody takes for images: they are left out without a word
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".xml", ".yaml", ".yml", ".html", ".ini", ".db", ".py",
    "readme", "license",
)  # fmt: skip
# "train", "Test", "valid2", "trainA", "training_set", "test_images": classes are rarely named so, all of them never.
SPLIT = re.compile(r"(train|val|test)(ing|id|idation)?([ab])?([ _-]?(set|data|images?|imgs?))?[ _-]?\d*", re.I)


class Listing:
    """The files of a folder or of a .zip, sorted by their paths.

    Args:
        root: the folder, whose links are followed (each folder once), or the .zip.
        splits: whether folders that are all named after splits are splits.

    Attributes:
        names: of the images, as they are opened.
        paths: of the images, separated by "/"; programs of Windows write names with "\\".
        others: paths of the other files, and their names; hidden files are in neither.
        parts: positions of the images of "train", "val" and "test", and of those outside of these ("").
        folders: of each part, as they are named; empty without a split layout.
        level: depth at which these folders lie, or None.

    Raises:
        FileNotFoundError: `root` does not exist.
        PermissionError: a folder may not be read.
        ValueError: it holds no image, is a file other than a whole .zip, or its splits are not those of one data set.
    """

    def __init__(self, root: Path, splits: bool = True) -> None:
        self.root = root
        shown = sorted((path, name) for name in file_names(root) if visible(path := slashed(name)))
        images = [(path, name) for path, name in shown if path.lower().endswith(SUFFIXES)]
        self.others = {path: name for path, name in shown if not path.lower().endswith(SUFFIXES)}
        if not images:
            others = ", ".join(f"{number:,} {kind}" for kind, number in self.left_out().most_common(3))
            there = f", but {others}" if others else ""
            raise ValueError(f"no image in {root}{there}: expected files that end in {' '.join(SUFFIXES)}")
        self.paths, self.names = ([*column] for column in zip(*images, strict=True))
        self.parts, self.folders, self.level = {"train": np.arange(len(images))}, {}, None
        if splits:
            self.find_splits()

    def find_splits(self) -> None:
        """Finds the level on which all folders are named after splits, more than one of them."""
        folders = [path.split("/")[:-1] for path in self.paths]
        below = [folder for folder in folders if folder]  # an image in the root itself is no reason to look no deeper
        shared = os.path.commonprefix(below) if below else []
        for level in range(max(len(shared) + 1, min(map(len, folders)))):
            named = [folder[level] if len(folder) > level else "" for folder in folders]
            matches = {name: SPLIT.fullmatch(name) for name in {*named} - {""}}
            if not matches or not all(matches.values()):
                continue
            if len({match[3].lower() for match in matches.values() if match[3]}) > 1:
                self.refuse_domains("".join(f"{name}/" for name in shared), sorted(matches))
            of = {name: match[1].lower() for name, match in matches.items()}
            # Beside a test/ alone, the images of the root itself are those to train on.
            of[""] = "train" if "train" not in of.values() else ""
            roles = np.array([of[name] for name in named])
            if len(present := {*roles.tolist()} - {""}) < 2:
                continue
            if "train" not in present:
                raise ValueError(
                    f"{self.root} holds {listed(matches)} and no train/: {self.unpack}name the folder to train on with "
                    "--data.root and the held-out one with --data.test_root, or add --data.splits false"
                )
            self.level = level
            self.parts = {role: np.flatnonzero(roles == role) for role in sorted({*roles.tolist()})}
            self.folders = {role: listed(n for n in matches if of[n] == role) or "its root" for role in present}
            return

    def refuse_domains(self, shared: str, names: list[str]) -> None:
        """Refuses trainA/ beside trainB/, as sets for translating A into B have them."""
        train, test = (next((n for n in names if n.lower().startswith(role)), None) for role in ("train", "test"))
        held_out = f" --data.test_root {self.root}/{shared}{test}" if train and test else ""
        raise ValueError(
            f"{self.root} holds two sets of images ({listed(names)}), and a GAN learns one: {self.unpack}name its "
            f"folders, as --data.root {self.root}/{shared}{train or names[0]}{held_out}; with --data.splits false each "
            "is a class"
        )

    def left_out(self) -> Counter[str]:
        """How many files of which suffix are not read, texts not counted."""
        paths = [path.lower() for path in self.others if not path.lower().endswith(COMPANIONS)]
        return Counter(Path(path).suffix or "without a suffix" for path in paths)

    @property
    def unpack(self) -> str:
        return "" if self.root.is_dir() else "unpack it and "

    def of(self, part: str) -> list[str]:
        """Paths of the images of a part."""
        return [self.paths[i] for i in self.parts.get(part, [])]

    def below(self, part: str) -> list[str]:
        """Paths of the images of a part, without the folder of the split."""
        paths = self.of(part)
        if self.level is None:
            return paths
        pieces = [path.split("/") for path in paths]
        return ["/".join(p[: self.level] + p[self.level + (len(p) > self.level + 1) :]) for p in pieces]


def file_names(root: Path) -> list[str]:
    """Relative names of all files under a folder or in a .zip; raises as `Listing` says."""
    if root.is_dir():
        found = []
        visited = {os.path.realpath(root)}
        for folder, subfolders, names in os.walk(root, onerror=_refuse, followlinks=True):
            real = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)}
            subfolders.clear()
            for name, path in real.items():
                if path not in visited:  # a link to a folder above would never end
                    visited.add(path)
                    subfolders.append(name)
            parent = Path(folder).relative_to(root).as_posix()
            found += names if parent == "." else [f"{parent}/{name}" for name in names]
        return found
    if zipfile.is_zipfile(root):
        return zip_names(root)
    check_root(root)
    raise ValueError(f"{root} is neither a folder nor a .zip of images: unpack it, or name its folder")


def _refuse(error: OSError) -> None:
    raise PermissionError(f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it elsewhere")


def slashed(name: str) -> str:
    """A relative path with "/" between its parts, which programs of Windows write as "\\"."""
    return name.replace("\\", "/").removeprefix("./").lstrip("/")


def visible(path: str) -> bool:
    """Whether a path is a file of the user's: not hidden, no folder, and nothing that an archiver of macOS adds."""
    return not any(part.startswith(".") or part in ("__MACOSX", "") for part in path.split("/"))


def listed(folders: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in sorted(folders))


def classes_of(paths: list[str], known: set[str]) -> list[str]:
    """Class name of every image: its first folder below those that all images share.

    Args:
        paths: relative paths, separated by "/".
        known: class names that are never taken for a shared folder.

    Returns:
        One name an image; empty without labels (an image outside any folder, or fewer than two classes).
    """
    folders = [path.split("/")[:-1] for path in paths]
    depth = len(os.path.commonprefix(folders))
    shared = folders[0][:depth]
    depth = next((level for level, name in enumerate(shared) if name in known), depth)
    if min(map(len, folders)) <= depth:
        return []
    return [folder[depth] for folder in folders]
