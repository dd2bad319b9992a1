"""Moving pictures: .gif and .webp, which Pillow writes, and .mp4, for which PyAV is needed."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path

from PIL import Image

SUFFIXES = (".mp4", ".gif", ".webp")
LEAST = 256  # pixels of the shorter side of a film; smaller pictures are magnified without smoothing


def check_film(path: str, others: Sequence[str] = ()) -> None:
    """Refuses, before any work is done, a film that could not be written.

    Args:
        path: of the film.
        others: suffixes that are taken, too.

    Raises:
        ValueError: naming the suffixes, or what to install.
    """
    suffix, known = Path(path).suffix, (*SUFFIXES, *others)
    if suffix not in known:
        raise ValueError(f"--output {path} must end in {', '.join(known)}")
    if suffix == ".mp4" and not find_spec("av"):
        raise ValueError(f"--output {path} needs PyAV: `pip install av`, or name a .gif or .webp, which do without")


def on_white(picture: Image.Image) -> Image.Image:
    """RGB, with white where the picture is transparent."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def magnified(picture: Image.Image) -> Image.Image:
    scale = -(-LEAST // min(picture.size))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def write_film(path: str | Path, frames: Iterable[Image.Image], fps: float, rest: float = 0.0) -> None:
    """Writes pictures of one size as a film; transparent pixels stay so in a .webp alone, others show them white.

    Args:
        path: .mp4, .gif or .webp; the last two repeat for ever.
        frames: at least one.
        fps: frames a second; a .gif counts in hundredths of a second.
        rest: seconds for which the last frame stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        return write_mp4(path, map(on_white, frames), fps, rest)
    frames = list(frames if path.suffix == ".webp" else map(on_white, frames))
    durations = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * (rest or 1 / fps))]  # milliseconds
    options = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, **options)


def write_mp4(path: Path, frames: Iterable[Image.Image], fps: float, rest: float) -> None:
    """H.264 in the form that every browser and player shows: its colours are those of pairs of pixels."""
    import av  # here: optional

    frames = iter(frames)
    picture = next(frames)
    even = (picture.width + picture.width % 2, picture.height + picture.height % 2)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=round(fps), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = *even, "yuv420p"
        for shown in chain([picture], frames, repeat(None, round(rest * fps))):
            if shown is not None:
                padded = Image.new("RGB", even, "white")
                padded.paste(shown)
            film.mux(stream.encode(av.VideoFrame.from_image(padded)))
        film.mux(stream.encode(None))
