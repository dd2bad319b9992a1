"""Any folder or .zip of images."""

from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.data.files import ImageFiles, check_levels, decoded
from src.data.headers import read_headers
from src.data.images import ImageDataModule
from src.data.labels import Labels, labels_of, unlabelled
from src.data.layout import Listing
from src.data.summary import Findings


class ImageFolder(ImageDataModule):
    """Images of a folder or a .zip: flat, one sub-folder a class, or with a file of labels.

    The files are decoded once into a memory map under `cache_dir`. Folders that are all named after splits (train,
    valid, test_images, ...) are splits: train/ is trained on, test/ or else val/ held out. The classes are those of
    labels.csv (a row an image: its file and its label), or else of dataset.json as StyleGAN writes it, or else the
    names of the first level of sub-folders that differ; images outside any sub-folder, or fewer than two sub-folders,
    make the set unlabelled. With classes, images without one are left out. One line says what was found.

    Args:
        root: folder or .zip of the training images.
        test_root: folder or .zip of the test images; its sub-folders are named as those of `root`.
        image_size: side, or [height, width], in pixels; none takes the size of the files where they agree (`fit` finds
            one by itself: src/commands/size.py).
        channels: 1 grey, 3 RGB, 4 RGB and alpha; none finds it in the files. 1 and 3 lay transparent pixels on white.
        resize: "crop" scales the shorter side and cuts the centre, "stretch" ignores the aspect.
        levels: the value that is white in images deeper than 8 bits; none takes the highest of their depth, 65,535 for
            integers of 32 bits and 255 for floating point numbers.
        label_column: column of labels.csv that holds the labels, where several might.
        splits: false takes folders named after splits for classes.
        max_bad: share of unreadable files that is skipped with a warning, 0 to 1; beyond it the run stops.
        cache_dir: folder of the decoded images; may be deleted at any time between runs.

    Raises:
        FileNotFoundError: `root` or `test_root` does not exist.
        ValueError: no image is found, the sizes differ and `image_size` is none, a file of labels cannot be used, or a
            class of `test_root` is not a training class.
    """

    def __init__(
        self,
        root: str,
        test_root: str | None = None,
        image_size: int | list[int] | None = None,
        channels: Literal[1, 3, 4] | None = None,
        resize: Literal["crop", "stretch"] = "crop",
        levels: int | None = None,
        label_column: str | None = None,
        splits: bool = True,
        max_bad: float = 0.01,
        cache_dir: str = ".cache/images",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_levels(levels)
        if label_column and not self.labels:
            raise ValueError("--data.label_column asks for labels and --data.labels false for none: leave one out")
        self.resize = resize
        self.levels = levels
        self.max_bad = max_bad
        self.cache_dir = cache_dir
        self.label_column = label_column
        self.splits: tuple[str, ...] = ()
        self.files: dict[str, ImageFiles] = {}
        self.classes: dict[str, list[str]] = {}  # of each image of a split; empty without labels
        self.unreadable: dict[str, int] = {}

        here = Listing(Path(root).expanduser(), splits)
        self.found = Findings(str(root), left_out=here.left_out())
        labels = labels_of(here, "train", label_column) if self.labels else unlabelled(here, "train", "labels: false")
        class_names = labels.names
        self.found.classes = labels.by
        self.take("train", here, "train", labels, class_names)
        if "" in here.parts:
            self.found.left_out[f"beside {here.folders['train']}"] = len(here.parts[""])
        if test_root is None:
            self.hold_out(here, class_names)
        else:
            for part in sorted({"test", "val"} & {*here.parts}):
                self.found.left_out[f"in {here.folders[part]} (test_root is given)"] = len(here.parts[part])
            self.read_test(Listing(Path(test_root).expanduser(), splits), class_names)

        sizes, found_channels = read_headers(self.files["train"])
        if image_size is None and len(set(sizes)) > 1:
            heights, widths = zip(*sizes, strict=True)
            raise ValueError(
                f"the images in {root} have different sizes (height {min(heights)} to {max(heights)}, width "
                f"{min(widths)} to {max(widths)}): choose one with --data.image_size"
            )
        self.describe(sizes[0] if image_size is None else image_size, channels or found_channels, class_names)
        self.found.sizes = scaled(sizes, self.image_size, resize, len(self.files["train"].names))

    def take(self, split: str, listing: Listing, part: str, labels: Labels, class_names: list[str]) -> None:
        """Makes a part of a folder a split: all its images, or with classes those that have one."""
        taken = [i for i, label in zip(listing.parts[part], labels.of, strict=True) if label or not class_names]
        self.splits += (split,)
        self.files[split] = ImageFiles(listing.root, [listing.names[i] for i in taken])
        self.classes[split] = [label for label in labels.of if label]
        self.found.left_out["without a label"] += len(labels.of) - len(taken)
        self.found.remarks += [remark for remark in labels.remarks if remark not in self.found.remarks]

    def hold_out(self, here: Listing, class_names: list[str]) -> None:
        """Takes the held-out images of the folder itself: those in test/, or else in val/."""
        for part in [part for part in ("test", "val") if part in here.parts]:
            labels, unknown = self.labels_like(here, part, class_names)
            if "test" in self.splits:
                why = f"beside {self.found.held_out}"
            elif class_names and (unknown or not any(labels.of)):
                why = f"without the classes of {here.folders['train']}"
            else:
                self.take("test", here, part, labels, class_names)
                self.found.held_out = here.folders[part]
                continue
            self.found.left_out[f"in {here.folders[part]} ({why})"] = len(here.parts[part])

    def read_test(self, there: Listing, class_names: list[str]) -> None:
        """Takes the images of `test_root`, of which those in train/ are no held-out ones.

        Raises:
            ValueError: their classes are not those of the training images.
        """
        part = next(part for part in ("test", "val", "train") if part in there.parts)
        labels, unknown = self.labels_like(there, part, class_names)
        if class_names and (unknown or not any(labels.of)):
            raise ValueError(
                f"sub-folders of {there.root} must be named as those of {self.found.source} (unknown: "
                f"{', '.join(unknown[:10]) or 'none'}): rename them, or add --data.labels false"
            )
        self.take("test", there, part, labels, class_names)
        self.found.held_out = f"{there.root}/{there.folders.get(part, '')}"
        self.found.left_out += there.left_out()
        for other in sorted({*there.parts} - {part}):
            self.found.left_out[f"in {there.root}/{there.folders.get(other, '')}"] = len(there.parts[other])

    def labels_like(self, listing: Listing, part: str, class_names: list[str]) -> tuple[Labels, list[str]]:
        """Labels of held-out images, and the classes among them that the training images lack."""
        if not class_names:
            return unlabelled(listing, part), []
        labels = labels_of(listing, part, self.label_column, class_names)
        return labels, sorted({*labels.names} - {*class_names})

    def prepare_data(self) -> None:
        """Decode what is not in the cache yet."""
        for split in self.splits:
            self.load(split)

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Open one split in the cache."""
        files, classes = self.files[split], self.classes[split]
        images, readable = decoded(
            files, self.image_size, self.channels, self.resize, self.cache_dir, self.max_bad, self.levels
        )
        self.unreadable[split] = len(files.names) - len(readable)
        self.found.left_out["unreadable"] = sum(self.unreadable.values())
        index = {name: label for label, name in enumerate(self.class_names)}
        return images, np.array([index[classes[i]] for i in readable]) if index else None


def scaled(sizes: list[tuple[int, int]], image_size: tuple[int, int], resize: str, num_files: int) -> str:
    """What becomes of files of these (height, width), in words; "" if nothing does."""
    if set(sizes) == {image_size}:
        return ""
    smallest, largest = ("{}x{}".format(*extreme(sizes, key=prod)) for extreme in (min, max))
    spread = smallest if len(set(sizes)) == 1 else f"sizes {smallest} to {largest}"
    seen = "" if len(sizes) == num_files else f" (of the {len(sizes):,} files looked at)"
    return f"{spread}{seen}, {'scaled and cut' if resize == 'crop' else 'stretched'} to {image_size[0]}x{image_size[1]}"


def file_sizes(root: str, splits: bool = True) -> list[tuple[int, int]]:
    """(height, width) of up to 500 of the training images of a folder or a .zip."""
    here = Listing(Path(root).expanduser(), splits)
    return read_headers(ImageFiles(here.root, [here.names[i] for i in here.parts["train"]]))[0]
