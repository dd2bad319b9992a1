"""Any folder or .zip of images."""

import os
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.data.files import ImageFiles, check_levels, decoded, zip_names
from src.data.formats import SUFFIXES
from src.data.headers import read_headers
from src.data.images import ImageDataModule


class ImageFolder(ImageDataModule):
    """Images of a folder or a .zip: flat, or one sub-folder a class.

    The files are decoded once into a memory map under `cache_dir`. Files of the first level of
    sub-folders that differ share a label; images outside any sub-folder, or fewer than two
    sub-folders, make the set unlabelled. Hidden files and other suffixes are ignored.

    Args:
        root: folder or .zip of the training images.
        test_root: folder or .zip of the test images; its sub-folders are named as those of `root`.
        image_size: side, or [height, width], in pixels; none takes the size of the files where they agree.
        channels: 1 grey, 3 RGB, 4 RGB and alpha; none finds it in the files. 1 and 3 lay transparent pixels on white.
        resize: "crop" scales the shorter side and cuts the centre, "stretch" ignores the aspect.
        levels: the value that is white in images deeper than 8 bits; none takes the highest of their depth, 65,535 for
            integers of 32 bits and 255 for floating point numbers.
        max_bad: share of unreadable files that is skipped with a warning, 0 to 1; beyond it the run stops.
        cache_dir: folder of the decoded images; may be deleted at any time between runs.

    Raises:
        FileNotFoundError: `root` or `test_root` does not exist.
        ValueError: no image is found, the sizes differ and `image_size` is none, or a test class is not a
            training class.
    """

    def __init__(
        self,
        root: str,
        test_root: str | None = None,
        image_size: int | list[int] | None = None,
        channels: Literal[1, 3, 4] | None = None,
        resize: Literal["crop", "stretch"] = "crop",
        levels: int | None = None,
        max_bad: float = 0.01,
        cache_dir: str = ".cache/images",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_levels(levels)
        self.resize = resize
        self.levels = levels
        self.max_bad = max_bad
        self.cache_dir = cache_dir
        self.splits = ("train",) if test_root is None else ("train", "test")
        self.roots = {"train": Path(root).expanduser()}
        if test_root is not None:
            self.roots["test"] = Path(test_root).expanduser()
        self.names = {split: image_names(path) for split, path in self.roots.items()}

        class_names = sorted(set(classes_of(self.names["train"], known=set())))
        files = ImageFiles(self.roots["train"], self.names["train"])
        if image_size is None or channels is None:
            sizes, found_channels = read_headers(files)
            if image_size is None and len(set(sizes)) > 1:
                heights, widths = zip(*sizes, strict=True)
                raise ValueError(
                    f"the images in {root} have different sizes (height {min(heights)} to {max(heights)}, width "
                    f"{min(widths)} to {max(widths)}): choose one with --data.image_size"
                )
            image_size = sizes[0] if image_size is None else image_size
            channels = found_channels if channels is None else channels
        self.describe(image_size, channels, class_names)

        self.labels_of = {split: self._labels(split) for split in self.splits}

    def _labels(self, split: str) -> np.ndarray | None:
        if self.num_classes == 0:
            return None
        index = {name: label for label, name in enumerate(self.class_names)}
        classes = classes_of(self.names[split], known=set(index))
        if not classes or not set(classes) <= set(index):
            unknown = ", ".join(sorted(set(classes) - set(index))[:10]) or "none"
            raise ValueError(
                f"sub-folders of {self.roots[split]} must be named as those of {self.roots['train']} "
                f"(unknown: {unknown}): rename them, or add --data.labels false"
            )
        return np.array([index[name] for name in classes])

    def prepare_data(self) -> None:
        """Decode what is not in the cache yet."""
        for split in self.splits:
            self.load(split)

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Open one split in the cache."""
        files = ImageFiles(self.roots[split], self.names[split])
        images, readable = decoded(
            files, self.image_size, self.channels, self.resize, self.cache_dir, self.max_bad, self.levels
        )
        labels = self.labels_of[split]
        return images, None if labels is None else labels[readable]


def image_names(root: Path) -> list[str]:
    """Sorted relative paths of the images under a folder or in a .zip.

    Args:
        root: the folder, whose links are followed (each folder once), or the .zip.

    Raises:
        FileNotFoundError: it does not exist.
        PermissionError: a folder may not be read.
        ValueError: it holds no image, or is a file other than a whole .zip.
    """
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
    elif zipfile.is_zipfile(root):
        found = zip_names(root)
    elif root.exists():
        raise ValueError(f"{root} is neither a folder nor a .zip of images: unpack it, or name its folder")
    else:
        raise FileNotFoundError(f"{root} does not exist: name a folder or a .zip of images with --data.root")
    names = sorted(name for name in found if _is_image(name))
    if not names:
        raise ValueError(f"no image in {root}: expected files that end in {' '.join(SUFFIXES)}")
    return names


def _refuse(error: OSError) -> None:
    raise PermissionError(f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it elsewhere")


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.lower().endswith(SUFFIXES)


def classes_of(names: list[str], known: set[str]) -> list[str]:
    """Class name of every image: its first folder below those that all images share.

    Args:
        names: relative paths, separated by "/".
        known: class names that are never taken for a shared folder.

    Returns:
        One name an image; empty without labels (an image outside any folder, or fewer than two classes).
    """
    folders = [name.split("/")[:-1] for name in names]
    depth = len(os.path.commonprefix(folders))
    shared = folders[0][:depth]
    depth = next((level for level, name in enumerate(shared) if name in known), depth)
    if min(map(len, folders)) <= depth:
        return []
    return [folder[depth] for folder in folders]
