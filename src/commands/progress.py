"""The grids of a run as a film: `python -m src progress`."""

from pathlib import Path

from jsonargparse.typing import NonNegativeFloat, PositiveFloat
from PIL import Image

from src.callbacks.pictures import developing
from src.commands.refusals import check_file
from src.images.film import check_film, magnified, write_film


def progress(run_dir: str, output: str | None = None, fps: PositiveFloat = 5.0, rest: NonNegativeFloat = 2.0) -> None:
    """Join the grids of a run, all of them, into a film.

    Args:
        run_dir: folder of the run.
        output: .mp4, .gif or .webp; training.gif in the run folder by default.
        fps: grids a second.
        rest: seconds for which the last one stays.

    Raises:
        ValueError: no grids, or a film that cannot be written.
    """
    output = output or str(Path(run_dir) / "training.gif")
    check_film(output)
    check_file(output, "--output")
    paths = developing(Path(run_dir) / "samples")
    if not paths:
        raise ValueError(f"{run_dir} holds no samples/step-*.png: name the folder of a run that wrote some")
    write_film(output, (magnified(Image.open(path)) for path in paths), fps, rest)
    print(f"{len(paths)} grids in {output}")
