"""The classes of images in a folder: by a file of labels, or by sub-folders."""

import os
import re
from collections.abc import Collection
from typing import NamedTuple

from src.data.files import ImageFiles
from src.data.headers import read_headers
from src.data.layout import Listing, classes_of
from src.data.tables import FEW, LabelFile, read_stylegan, read_table

TABLE, STYLEGAN = "labels.csv", "dataset.json"
SIZE = re.compile(r"(\d+)(?:x(\d+))?(?:px)?(?:@(\d)x?)?")  # a folder of icons: 48x48, 32@2x


class Labels(NamedTuple):
    """Classes of images, and where they are from."""

    of: list[str]  # one an image; empty for one without
    by: str  # "by folder", or why there are none
    remarks: list[str]  # what was decided in reading them

    @property
    def names(self) -> list[str]:
        """Of the classes: numbers in a file by their size; folders, for the sake of old checkpoints, as text."""
        found = {*self.of} - {""}
        numbers = self.by != "by folder" and all(re.fullmatch(r"-?\d{1,18}", name) for name in found)
        return sorted(found, key=int if numbers else str)


def labels_of(listing: Listing, part: str, column: str | None = None, known: Collection[str] = ()) -> Labels:
    """The classes of one part of a folder or .zip: by labels.csv, or else dataset.json, or else its sub-folders.

    The files of labels lie in the root, or in a folder below it that all images of the part share.

    Args:
        listing: of the folder or .zip.
        part: "train", "val" or "test".
        column: of labels in the table.
        known: the training classes, where these are held-out images.

    Raises:
        ValueError: a file of labels cannot be used, or `column` is given and there is no table.
    """
    paths = listing.of(part)
    shared = os.path.commonprefix([path.split("/")[:-1] for path in paths])
    folders = ["".join(f"{name}/" for name in shared[:depth]) for depth in range(len(shared), -1, -1)]
    there = {path.lower(): path for path in listing.others}
    wanted = [(folder + file).lower() for file in (TABLE, STYLEGAN) for folder in folders]
    found = [there[path] for path in wanted if path in there]
    if column and not known and not any(path.lower().endswith(TABLE) for path in found):
        raise ValueError(f"--data.label_column {column} needs a table: there is no {TABLE} in {listing.root}")
    remarks = []
    for number, path in enumerate(found):
        folder = path[: path.rfind("/") + 1]
        read = read_labels(listing, path, folder, column)
        if read is None:
            remarks.append(f"{path} holds no `labels`")
            continue
        remarks += read.remarks + [f"{other} is not read" for other in found[number + 1 :]]
        of = [read.of.get(path.removeprefix(folder), "") for path in paths]
        classes = {*of} - {""}
        if not known and len(classes) < 2:
            why = f"{path} has {'one alone, ' if classes else 'none'}{''.join(classes)}"
            return unlabelled(listing, part, why, remarks)
        return Labels(of, f"by {path}", remarks)
    return labels_by_folder(listing, part, {*known}, remarks)


def read_labels(listing: Listing, path: str, folder: str, column: str | None) -> LabelFile | None:
    """What a file of labels says, by paths relative to its folder; None if it is about something else."""
    images, training = (
        [image.removeprefix(folder) for image in group if image.startswith(folder)]
        for group in (listing.paths, listing.of("train"))
    )
    with ImageFiles(listing.root, []).open(listing.others[path]) as file:
        content = file.read()
    if path.lower().endswith(TABLE):
        return read_table(content, f"{listing.root}/{path}", images, training, column)
    return read_stylegan(content, f"{listing.root}/{path}", images, training)


def labels_by_folder(listing: Listing, part: str, known: set[str], remarks: list[str]) -> Labels:
    """Classes by sub-folders, unless these number the images, say their sizes, or hold hardly more than one each."""
    below = listing.below(part)
    of = classes_of(below, known)
    if not of:
        depths = [path.count("/") for path in below]
        outside = depths.count(len(os.path.commonprefix([path.split("/")[:-1] for path in below])))
        return unlabelled(listing, part, f"{outside:,} in no sub-folder" if outside < len(below) else "", remarks)
    if numbered(below, of):
        return unlabelled(listing, part, f"folders {min(of)} to {max(of)} number the images", remarks)
    if (number := len({*of})) > max(FEW, len(of) / 2) and not known:
        return unlabelled(listing, part, f"{number:,} folders of {len(of):,} images", remarks)
    if sized(listing, part, of):
        return unlabelled(listing, part, f"folders {min(of)}, {max(of)} say the sizes of the images", remarks)
    return Labels(of, "by folder", remarks)


def unlabelled(listing: Listing, part: str, why: str = "", remarks: list[str] | None = None) -> Labels:
    """No labels."""
    return Labels([""] * len(listing.parts[part]), why, remarks or [])


def numbered(paths: list[str], folders: list[str]) -> bool:
    """Whether folders hold a thousand images each, as StyleGAN (00012/img00012345.png) and FFHQ (12000/) write them."""
    for path, folder in zip(paths, folders, strict=True):
        digits = re.search(r"(\d+)\.\w+$", path)
        if not digits or not re.fullmatch(r"\d{5,}", folder):
            return False
        if int(folder) not in ((thousand := int(digits[1]) // 1000), thousand * 1000):
            return False
    return True


def sized(listing: Listing, part: str, folders: list[str]) -> bool:
    """Whether all folders are named after the size of their images, by the first image of each."""
    firsts = dict(zip(reversed(folders), reversed(listing.parts[part]), strict=True))
    for folder, first in firsts.items():
        if not (match := SIZE.fullmatch(folder)):
            return False
        width, height, scale = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        try:
            sizes, _ = read_headers(ImageFiles(listing.root, [listing.names[first]]))
        except ValueError:  # it cannot be read
            return False
        if sizes != [(height * scale, width * scale)]:
            return False
    return True
