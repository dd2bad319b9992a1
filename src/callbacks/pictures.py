"""Grids of images as PNG files, and the callback that writes one as training goes on."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from src.engine.interrupts import is_interrupt
from src.images.film import write_film

EARLIEST = 50  # steps after which the first grid of a trained generator is drawn
MOST_FRAMES = 40


def to_image(pixels: Tensor) -> Image.Image:
    """A grey, RGB or RGBA picture of uint8 `pixels` [C, H, W]; the first channel alone for any other C."""
    channels = pixels.shape[0] if pixels.shape[0] in (1, 3, 4) else 1
    array = pixels[:channels].permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array.squeeze(2) if channels == 1 else array))


def grid(
    images: Tensor, columns: int | None = None, least_size: int = 32, gap: int = 2, titles: Sequence[str] = ()
) -> Image.Image:
    """Joins images row by row into one picture, small ones magnified without smoothing.

    Args:
        images: uint8 [N, C, H, W].
        columns: images a row; near the square root of N by default.
        least_size: each side of an image has at least so many pixels in the picture.
        gap: white pixels between images.
        titles: what to write over the columns, see `titled`.
    """
    scale = max(1, math.ceil(least_size / min(images.shape[2:])))
    images = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return titled(to_image(sheet), titles, width, gap) if titles else to_image(sheet)


def side_by_side(pictures: dict[str, Image.Image], gap: int = 16) -> Image.Image:
    """Pictures of any sizes in a row on white, each below its name."""
    width, height = (max(sizes) for sizes in zip(*(picture.size for picture in pictures.values()), strict=True))
    sheet = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for column, picture in enumerate(pictures.values()):
        sheet.paste(picture.convert("RGBA"), (column * (width + gap), 0), picture.convert("RGBA"))
    return titled(sheet, list(pictures), width, gap)


def titled(picture: Image.Image, titles: Sequence[str], width: int, gap: int) -> Image.Image:
    """A grid with titles over its columns, shortened to their width; as it is where they would be alike then.

    Args:
        picture: grid of columns of `width` pixels.
        titles: of the first columns.
        width: of a column.
        gap: pixels between columns.
    """
    import matplotlib  # here: it would slow the start of every command; its font has accents, Pillow's has none

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(path, min(max(10, width // 6), 24))  # 10 is the least that can be read
    shortened = [fitted(title, font, width) for title in titles]
    if len(set(shortened)) < len(set(titles)):
        return picture
    height = sum(font.getmetrics())
    sheet = Image.new(picture.mode, (picture.width, height + picture.height), "white")
    sheet.paste(picture, (0, height))
    for column, title in enumerate(shortened):
        ImageDraw.Draw(sheet).text((column * (width + gap) + width / 2, 0), title, "black", font, anchor="ma")
    return sheet


def fitted(title: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A title in one line, without as much of its end as makes it wider than `width` pixels."""
    title = " ".join(title.split())
    beginnings = (f"{title[:end]}…" for end in range(len(title) - 1, 0, -1))
    return next((shown for shown in (title, *beginnings) if font.getlength(shown) <= width), "")


def class_titles(labels: Sequence[int | None], names: list[str], columns: int | None) -> list[str]:
    """Names of the classes that the columns of a grid hold; none unless each holds a single one.

    Args:
        labels: of the images; None for those without.
        names: of the classes.
        columns: of the grid.
    """
    held = [{*labels[column::columns]} - {None} for column in range(min(columns or 0, len(labels)))]
    return [names[of.pop()] for of in held] if all(len(of) == 1 for of in held) else []


def send(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Gives a picture to a logger in the way that it takes one, if it takes any: a CSV file does not."""
    experiment = getattr(logger, "experiment", None)
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(name, [picture], step=step)
    elif hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(name, np.asarray(picture), step, dataformats="HW" if picture.mode == "L" else "HWC")
    elif hasattr(experiment, "log_image"):  # MLflow
        experiment.log_image(logger.run_id, picture, key=name, step=step)


class SampleGrid(Callback):
    """Writes grids of the same samples as they develop, and one of real images to compare them with.

    Files are `samples/step-00001000.png`, `samples/latest.png` (the newest of them), `samples/real.png`, and at the end
    `samples/training.gif`; loggers that take pictures (Weights & Biases, TensorBoard, MLflow) get them too. Of up to
    ten classes each has a column, with its name over it.

    Args:
        every_n_steps: steps between two grids; before the first of them come grids at 0, 50, 100, 200, 400, ... steps,
            to see early whether it learns, and one more is written at the end, also after Ctrl-C.
        num_images: images in a grid.
    """

    needs_data = True  # a data module of src.data

    def __init__(self, every_n_steps: int = 250, num_images: int = 100):
        if min(every_n_steps, num_images) < 1:
            raise ValueError(f"SampleGrid takes numbers of at least 1, got {every_n_steps} steps, {num_images} images")
        self.every_n_steps = every_n_steps
        self.num_images = num_images

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.datamodule and not trainer.fast_dev_run:
            images, labels = trainer.datamodule.split("train")
            every = labels is not None and len(np.unique(labels)) == trainer.datamodule.num_classes
            drawn = (
                of_all_classes(labels, self.num_images) if every else trainer.datamodule.drawn("train", self.num_images)
            )
            shown = None if labels is None else torch.from_numpy(labels[drawn])
            self.save(trainer, self.picture(trainer, pl_module, torch.from_numpy(images[drawn]), shown), "real")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == 0 and not trainer.fast_dev_run:
            self.draw(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if self.is_due(trainer.global_step):
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if not self.is_due(trainer.global_step):
            self.draw(trainer, pl_module)
        if trainer.is_global_zero:
            animate(Path(trainer.default_root_dir) / "samples")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_interrupt(exception):
            self.on_train_end(trainer, pl_module)

    def is_due(self, step: int) -> bool:
        early = step < self.every_n_steps and step % EARLIEST == 0 and (step // EARLIEST).bit_count() == 1
        return early or step % self.every_n_steps == 0

    @rank_zero_only
    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = torch.arange(self.num_images)
        images, _, labels = pl_module.shown(numbers, trainer.datamodule.grid_conditions(numbers))
        self.save(trainer, self.picture(trainer, pl_module, images, labels), f"step-{trainer.global_step:08d}")

    def picture(self, trainer: Trainer, gan: LightningModule, images: Tensor, labels: Tensor | None) -> Image.Image:
        """A grid of the first images, with the names of the classes over the columns that hold one each."""
        columns, labels = gan.generator.columns, [] if labels is None else labels[: self.num_images].tolist()
        titles = class_titles(labels, trainer.datamodule.class_names, columns)
        return grid(images[: self.num_images], columns, titles=titles)

    def save(self, trainer: Trainer, picture: Image.Image, name: str) -> None:
        path = Path(trainer.default_root_dir) / "samples" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if name != "real":
            picture.save(path.with_name("latest.png"))
        for logger in trainer.loggers:
            send(logger, "samples" if name != "real" else name, picture, trainer.global_step)


def developing(folder: Path) -> list[Path]:
    """The grids of a run in the order of their steps; those of another size than the newest are left out."""
    sizes = {}
    for path in sorted(folder.glob("step-*.png")):
        with Image.open(path) as picture:
            sizes[path] = picture.size
    return [path for path, size in sizes.items() if size == [*sizes.values()][-1]]


def animate(folder: Path) -> None:
    """Joins the grids of a run into `training.gif`; of many grids it takes every n-th."""
    paths = developing(folder)
    paths = paths[:: -(-len(paths) // MOST_FRAMES)] + paths[-1:]
    write_film(folder / "training.gif", map(Image.open, paths), fps=5, rest=2)


def of_all_classes(labels: np.ndarray, number: int) -> np.ndarray:
    """Numbers of images whose classes take turns, as those of the samples in a grid do; even over each class.

    Args:
        labels: of all images.
        number: how many are wanted.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows = -(-number // len(members))
    return np.stack([of[np.linspace(0, len(of) - 1, rows).astype(int)] for of in members], 1).ravel()[:number]


class NearestImages(Callback):
    """Writes `nearest.png` after `test`: samples, and to the right of each the real images nearest to it.

    Nearest in the features of the first metric. A generator that repeats its training images shows them here.

    Args:
        num_samples: rows.
        num_nearest: real images a row.
    """

    needs_data = True  # a data module of src.data

    def __init__(self, num_samples: int = 12, num_nearest: int = 7):
        self.num_samples = num_samples
        self.num_nearest = num_nearest

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metric = pl_module.first_metric
        if not metric:
            return
        real, numbers = pl_module.real(metric, "train"), torch.arange(self.num_samples)  # which all processes must ask
        if not trainer.is_global_zero:
            return
        samples = pl_module.shown(numbers, trainer.datamodule.conditions(numbers))[0][: self.num_samples]
        distances = torch.cdist(metric.extractor(samples).cpu().double(), real.values.double())
        nearest = real.indices[distances.topk(min(self.num_nearest, len(real)), largest=False).indices]
        images = trainer.datamodule.split("train")[0]
        rows = [
            torch.cat([s[None], torch.from_numpy(images[n.numpy()])])
            for s, n in zip(samples.cpu(), nearest, strict=True)
        ]
        path = Path(trainer.default_root_dir) / "nearest.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(torch.cat(rows), 1 + nearest.shape[1]).save(path)
