"""Examples of your own with several modalities: a table of images, sounds and texts."""

import wave
from pathlib import Path
from typing import Any

import numpy as np

from src.data.files import ImageFiles, check_levels, decoded
from src.data.multimodal import BANDS, MODALITIES, WINDOW, Arrays, Multimodal, spectrogram, to_bytes
from src.data.order import permutation
from src.data.sizes import height_width
from src.data.tables import rows_of


class Manifest(Multimodal):
    """Your own examples: a table (.csv, or .parquet where pandas can read it), one example a row.

    Columns `image` (a file; every row needs one), `audio` (a .wav file), `text` and `label`, of which all but `image`
    may be left out. An empty cell is a modality that this example lacks. Files are named relative to the manifest.

    Args:
        manifest: the table.
        image_size: side, or [height, width], in pixels, of the largest centred box of that aspect, scaled.
        channels: 1 grey, 3 RGB.
        levels: the value that is white in images deeper than 8 bits; none takes the highest of their depth.
        audio_seconds: what is kept of a sound, from its beginning; a shorter one is followed by silence.
        test_share: share of the rows, chosen at random once and for all, that is held out, from 0 to below 1.
        cache_dir: folder of the decoded images; may be deleted at any time between runs.

    Raises:
        FileNotFoundError: the manifest or a file that it names is missing.
        ValueError: a column is missing or empty, a sound or a text cannot be used, or Parquet cannot be read.
    """

    def __init__(
        self,
        manifest: str,
        image_size: int | list[int] = 32,
        channels: int = 3,
        levels: int | None = None,
        audio_seconds: float = 1.0,
        test_share: float = 0.2,
        cache_dir: str = ".cache/images",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest = Path(manifest).expanduser()
        self.found.source = manifest
        check_levels(levels)
        self.levels = levels
        self.audio_seconds = audio_seconds
        self.cache_dir = cache_dir
        if not 0 <= test_share < 1:
            raise ValueError(f"data.test_share is at least 0 and below 1, not {test_share}")
        self.rates: dict[int, str] = {}  # of the sounds, each with the first file that has it
        self.rows = read_table(self.manifest)
        self.class_index = {name: i for i, name in enumerate(sorted({row.get("label") or "" for row in self.rows}))}
        order = permutation(len(self.rows), seed=0, epoch=0).numpy()
        held_out = round(test_share * len(order))
        self.numbers = {"test": np.sort(order[:held_out]), "train": np.sort(order[held_out:])}
        self.splits = ("train", "test") if held_out else ("train",)
        self.describe(height_width(image_size), channels, class_names=[])

    def read(self, split: str) -> tuple[np.ndarray, Arrays, np.ndarray | None]:
        numbers = self.numbers[split]
        rows = [self.rows[i] for i in numbers]
        files = ImageFiles(self.manifest.parent, [row["image"] for row in rows])
        images, _ = decoded(files, self.image_size, self.channels, "crop", self.cache_dir, 0.0, self.levels)
        recordings = {
            "number": numbers,
            "audio": np.stack([self.sound(row.get("audio")) for row in rows]),
            "text": np.stack([to_bytes(row.get("text") or "", self.text_length) for row in rows]),
            "recorded": np.array([[bool(row.get(name)) for name in MODALITIES] for row in rows]),
        }
        labelled = all(row.get("label") for row in rows)
        return images, recordings, np.array([self.class_index[row["label"]] for row in rows]) if labelled else None

    def sound(self, name: str | None) -> np.ndarray:
        frames = round(self.audio_seconds / (WINDOW / 2))
        if not name:
            return np.zeros((frames, BANDS), np.float32)
        signal, rate = read_wav(self.manifest.parent / name)
        self.rates.setdefault(rate, name)
        if len(self.rates) > 1:
            (first, other), (second, another) = self.rates.items()
            raise ValueError(f"{other} has {first} samples a second and {another} {second}: convert them to one rate")
        return spectrogram(signal, rate, frames)


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples in [-1, 1], [n], channels averaged, and how many a second, of an uncompressed WAV file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with wave.open(str(path)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no uncompressed WAV file ({error or 'it ends too early'}): convert it") from error
    if width not in (1, 2, 4) or not content:
        raise ValueError(f"{path} has {8 * width} bits a sample and {len(content)} bytes: convert it to 16 bits")
    samples = np.frombuffer(content[: len(content) // width * width], {1: np.uint8, 2: "<i2", 4: "<i4"}[width])
    samples = samples / 128 - 1 if width == 1 else samples / 2.0 ** (8 * width - 1)
    return samples.reshape(-1, channels).mean(1), rate


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a manifest as strings, checked as `Manifest` says."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name a table with --data.manifest")
    if path.suffix == ".parquet":
        try:
            import pandas

            rows = pandas.read_parquet(path).fillna("").astype(str).to_dict("records")
        except ImportError as error:
            raise ValueError(f"{path}: Parquet needs pandas and pyarrow: install them, or export a .csv") from error
    else:
        rows = rows_of(path)
    columns = set(rows[0]) if rows else set()
    if "image" not in columns or not columns & {"audio", "text"}:
        found = ", ".join(sorted(map(str, columns))) or "nothing"
        raise ValueError(f"{path} needs a column image, and audio or text or both: it has {found}")
    for name in columns & {*MODALITIES, "label"}:
        if not any(row[name] for row in rows):
            raise ValueError(f"{path}: column {name} is empty: fill it, or leave it out")
    for number, row in enumerate(rows, start=2):  # as an editor counts lines: the first is the header
        for name in ("image", "audio"):
            if row.get(name) and not (path.parent / row[name]).is_file():
                raise FileNotFoundError(f"{path}, line {number}: {name} {row[name]} does not exist")
        if not row["image"]:
            raise ValueError(f"{path}, line {number}: no image, and every row needs one to learn from")
        if row.get("text") and not row["text"].strip():
            raise ValueError(f"{path}, line {number}: text is blank: leave the cell empty if there is none")
    return rows
