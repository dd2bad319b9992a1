"""Image files, decoded once into a memory map that every later run reads."""

import errno
import hashlib
import io
import math
import os
import shutil
import stat
import threading
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image
from tqdm import tqdm

from src.data.decoding import Levels, decode
from src.data.summary import printable

CACHE_VERSION = 3  # raise it when a file would be decoded to other pixels
ONE_READER = threading.Lock()  # two threads that read one .zip get each other's bytes (Python 3.12 and 3.13)
MAX_BYTES = 4 * (Image.MAX_IMAGE_PIXELS or 1 << 27)  # of a file in a .zip, which is unpacked in memory: 358 MB


def zip_names(root: Path) -> list[str]:
    """Names of the files in a .zip, without those that lead out of it, which one line counts.

    Args:
        root: the .zip.

    Raises:
        ValueError: it is damaged, or holds a name twice.
    """
    try:
        with zipfile.ZipFile(root) as archive:
            counts = Counter(entry.filename for entry in archive.infolist() if not entry.is_dir())
    except Exception as error:  # zipfile raises nearly anything on a damaged one
        raise ValueError(f"{root} is a damaged .zip ({error}): fetch or pack it again") from error
    twice = [printable(name) for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"{root} holds {len(twice):,} names more than once ({twice[0]}), of which only the last can be read: "
            "unpack it, see which are meant, and name the folder"
        )
    outside = {name for name in counts if ".." in name.replace("\\", "/").split("/")}
    if outside:
        rank_zero_warn(  # every process lists the files
            f"left out {len(outside):,} files of {root} whose names lead out of it ({printable(min(outside))}): "
            "pack it again to have them read"
        )
    return [name for name in counts if name not in outside]


class ImageFiles:
    """Image files under a folder or in a .zip.

    Args:
        root: the folder or the .zip.
        names: paths relative to it, separated by "/".
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        return None if self.root.is_dir() else zipfile.ZipFile(self.root)

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading.

        Raises:
            ValueError: it is a pipe or a device, or would be unpacked to more than `MAX_BYTES`.
        """
        if self._archive:
            if (size := self._archive.getinfo(name).file_size) > MAX_BYTES:
                raise ValueError(f"{size / 1e6:.0f} MB unpacked, more than {MAX_BYTES / 1e6:.0f}")
            with ONE_READER:
                content = io.BytesIO(self._archive.read(name))
            content.name = name  # as a file on disk has one
            return content
        if not stat.S_ISREG((self.root / name).stat().st_mode):  # opening a pipe would wait for a writer
            raise ValueError("not a regular file")
        return open(self.root / name, "rb")

    def fingerprint(self) -> str:
        """Digest that changes with any name and, in a folder, the identity, size or time of a file, in a .zip its CRC.

        Archives of files with one date unpack to folders whose files are alike but for their pixels and their identity.
        """
        digest = hashlib.sha256()
        if self._archive:
            found = self.root.stat()
            digest.update(repr((found.st_size, found.st_mtime_ns)).encode())
        for name in self.names:
            if self._archive:
                state = (self._archive.getinfo(name).CRC,)
            else:
                try:
                    found = os.stat(self.root / name)
                    state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
                except OSError:  # a dangling link: decoding will count it as unreadable
                    state = ()
            digest.update(repr((name, *state)).encode())
        return digest.hexdigest()


def check_levels(levels: int | None) -> None:
    """Refuses a value that cannot be white."""
    if levels is not None and levels < 1:
        raise ValueError(f"--data.levels names what is white, at least 1, not {levels}: leave it out, or name it")


def decoded(
    files: ImageFiles,
    image_size: tuple[int, int],
    channels: int,
    resize: str,
    cache_dir: str,
    max_bad: float,
    levels: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of image files, decoded once and kept as a memory map; a changed file or option makes a new one.

    Args:
        files: what to decode.
        image_size: (height, width) in pixels.
        channels: 1, 3 or 4.
        resize: "crop" or "stretch", as of `decode`.
        cache_dir: folder of the memory maps.
        max_bad: share of unreadable files that is tolerated, 0 to 1.
        levels: the value that is white in files deeper than 8 bits, as of `decode`.

    Returns:
        uint8 (N, C, H, W), read-only, and the positions (N,) in `files.names` of the readable files.

    Raises:
        ValueError: more than `max_bad` of the files, or all of them, are unreadable.
        OSError: the disk is too small.
    """
    how = (image_size, channels, resize, levels)  # arguments of `decode`
    key = repr((CACHE_VERSION, files.fingerprint(), *how))
    path = Path(cache_dir) / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.parent / "build.lock").acquire()
        except OSError as error:
            raise OSError(
                f"{cache_dir} cannot be written into ({error.strerror}): name another folder with --data.cache_dir"
            ) from error
        with lock:  # two runs that start together build it once
            if not path.exists():
                _build(path, files, how, max_bad)
    images = np.load(path, mmap_mode="r")
    with open(path, "rb") as file:
        file.seek(images.offset + images.nbytes)
        readable = np.load(file)
    skipped = np.setdiff1d(np.arange(len(files.names)), readable)
    _tolerate({files.names[i]: "" for i in skipped}, files, max_bad)
    return images, readable


def _build(path: Path, files: ImageFiles, how: tuple, max_bad: float) -> None:
    image_size, channels, _, levels = how
    for leftover in path.parent.glob("*.part"):  # of a build that was killed: whoever builds holds the lock
        leftover.unlink()
    num_threads = os.cpu_count() or 1
    shape = (channels, *image_size)
    needed = len(files.names) * (math.prod(shape) + 8) + 256

    def no_space() -> OSError:
        return OSError(
            f"{path.parent} is too small for the decoded images: {needed / 1e6:.0f} MB needed, "
            f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB free; "
            "name a folder on another disk with --data.cache_dir"
        )

    if needed > shutil.disk_usage(path.parent).free:
        raise no_space()

    def attempt(name: str) -> tuple[np.ndarray, Levels | None] | str:
        try:
            with files.open(name) as file:
                return decode(file, *how)
        except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            return " ".join(f"{kind}{error}".split())

    part = path.with_suffix(".part")
    readable: list[int] = []
    unreadable: dict[str, str] = {}
    depths: list[Levels] = []
    try:
        with (
            open(part, "wb") as file,
            ThreadPoolExecutor(num_threads) as pool,
            tqdm(total=len(files.names), desc=f"decoding {files.root}", unit="image", disable=None) as progress,
        ):
            _write_header(file, (len(files.names), *shape))
            start = file.tell()
            pending: deque = deque()  # bounded, so that decoding never runs far ahead of the disk
            for index, name in enumerate(files.names):
                pending.append((index, name, pool.submit(attempt, name)))
                while len(pending) > 4 * num_threads or (pending and index == len(files.names) - 1):
                    done, done_name, future = pending.popleft()
                    result = future.result()
                    if isinstance(result, str):
                        unreadable[done_name] = result
                    else:
                        pixels, used = result
                        file.write(pixels.tobytes())
                        depths += [used] if used else []
                        readable.append(done)
                    progress.update()
            _tolerate(unreadable, files, max_bad)
            np.save(file, np.array(readable))  # behind the images, in the same file: both are whole or neither is
            file.seek(0)
            _write_header(file, (len(readable), *shape))
            assert file.tell() == start
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_space() from error
        raise
    if unreadable:
        warnings.warn(f"left out {_named(unreadable, files)}", stacklevel=3)
    for remark in remarks(depths, levels):
        warnings.warn(remark, stacklevel=3)


def remarks(depths: list[Levels], levels: int | None) -> Iterator[str]:
    """What is said where images deeper than 8 bits do not fit the value that is taken for white, or there are none.

    Args:
        depths: of each such image.
        levels: the value that the user has named, or None.
    """
    if levels and not depths:
        yield f"--data.levels {levels} changes nothing: no image is deeper than 8 bits"
    total = f"of {len(depths):,} images deeper than 8 bits"
    dark = [used for used in depths if 0 < used.peak < used.white / 4]
    if 2 * len(dark) > len(depths) and not levels:
        peak, white = max(dark)
        fitting = 2 ** math.ceil(peak).bit_length() - 1
        yield (
            f"{len(dark):,} {total} use levels up to {round(peak, 3):,} of {white:,}, almost black: "
            f"--data.levels {fitting} makes that white"
        )
    bright = [used for used in depths if used.peak > used.white]
    if bright:
        peak, white = max(bright)
        yield (
            f"{len(bright):,} {total} reach {round(peak, 3):,}, and all above {white:,} is white: "
            f"--data.levels {math.ceil(peak)} keeps it apart"
        )


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # NumPy pads the header for a first axis of any length, so it can be rewritten in place.
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _tolerate(unreadable: dict[str, str], files: ImageFiles, max_bad: float) -> None:
    if len(unreadable) > max_bad * len(files.names):
        raise ValueError(
            f"more than max_bad {max_bad:.2%} is unreadable: {_named(unreadable, files)}; "
            "repair or remove them, or raise --data.max_bad"
        )
    if len(unreadable) == len(files.names):
        raise ValueError(f"none of the files can be read: {_named(unreadable, files)}")


def _named(unreadable: dict[str, str], files: ImageFiles) -> str:
    shown = ((printable(name), printable(reason)) for name, reason in list(unreadable.items())[:10])
    named = ", ".join(f"{name} ({reason})" if reason else name for name, reason in shown)
    more = f" and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
    share = len(unreadable) / len(files.names)
    return f"{len(unreadable)} unreadable of {len(files.names)} files ({share:.2%}) in {files.root}: {named}{more}"
