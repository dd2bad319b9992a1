"""Scores folders of images from any program, and compares scores: `python -m src score`, `python -m src compare`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch

from src.commands.refusals import check_file
from src.data.folder import ImageFolder
from src.engine.batches import EVAL_BATCH
from src.metrics.base import Metric, Score
from src.metrics.fid import ClassFrechetDistance, FrechetDistance
from src.metrics.from_torchmetrics import ImageMetric, adapted
from src.metrics.kept import real_features
from src.metrics.report import say_figures
from src.metrics.statistics import Features


def score(
    real: str,
    fake: str,
    metrics: list[Metric | ImageMetric] | None = None,
    image_size: int | list[int] | None = None,
    channels: Literal[1, 3, 4] | None = None,
    resize: Literal["crop", "stretch"] = "crop",
    levels: int | None = None,
    labels: bool = True,
    label_column: str | None = None,
    splits: bool = True,
    max_bad: float = 0.01,
    cache_dir: str = ".cache",
    output: str | None = None,
) -> None:
    """Score images of a folder or .zip against those of another, with the code and the protocol of `test`.

    Args:
        real: folder or .zip of real images.
        fake: folder or .zip of generated images, from any program.
        metrics: figures of merit, of torchmetrics too; the FID by default.
        image_size: side, or [height, width]; by default that of the files, where they agree.
        channels: 1 grey, 3 RGB, 4 RGBA; found in the files by default.
        resize: how files are brought to `image_size`, "crop" or "stretch".
        levels: the value that is white in images deeper than 8 bits; none takes the highest of their depth.
        labels: false takes no notice of classes.
        label_column: column of labels in labels.csv, where several might be it.
        splits: false takes folders named after splits (train, test) for classes; otherwise images of train/ are scored.
        max_bad: largest share of unreadable files, which are named and skipped.
        cache_dir: decoded images and features are kept here.
        output: JSON file to write the figures to.
    """
    if output:
        check_file(output, "--output")
    shared = {"image_size": image_size, "channels": channels, "resize": resize, "levels": levels, "max_bad": max_bad}
    shared |= {"cache_dir": f"{cache_dir}/images", "labels": labels, "label_column": label_column, "splits": splits}
    try:
        sets = {"real": ImageFolder(real, **shared), "fake": ImageFolder(fake, **shared)}
        for data in sets.values():
            data.prepare_data()
            data.setup("test")
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace("--data.", "--")) from error
    classes = [data.class_names for data in sets.values()]
    if classes[0] != classes[1] and any(isinstance(metric, ClassFrechetDistance) for metric in metrics or []):
        raise ValueError(f"figures of classes need the same ones in both: {real} has {classes[0]}, {fake} {classes[1]}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = []
    metrics = [adapted(metric) for metric in metrics or [FrechetDistance()]]
    first = next((metric.extractor for metric in metrics if isinstance(metric, Metric)), None)
    for metric in metrics:
        metric.setup(device, first)
        if isinstance(metric, Metric):
            metric.require(metric.least, *(data.num_images("train") for data in sets.values()))
    protocol = {"real": real, "fake": fake, "image_size": list(sets["real"].image_size), "resize": resize}
    protocol |= {"channels": sets["real"].channels, "real_data": sets["real"].digest("train")[:8]}
    protocol |= {} if levels is None else {"levels": levels}
    for metric in metrics:
        if isinstance(metric, Metric):
            features = {name: extract(data, metric, f"{cache_dir}/features", name) for name, data in sets.items()}
            found = metric.figures(features["real"], features["fake"], True, protocol)
        else:
            found = of_images(metric, sets["real"], sets["fake"], protocol)
        figures += metric.directed(found)
    say_figures(figures)
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps({"results": figures}, indent=2) + "\n")


def extract(data: ImageFolder, metric: Metric, cache_dir: str, name: str) -> Features:
    _, labels = data.split("train")
    return real_features(
        data.real_batches("train"), labels, data.num_images("train"), data.fingerprint("train"),
        metric.extractor, cache_dir, name=name,
    )  # fmt: skip


def of_images(metric: Score, real: ImageFolder, fake: ImageFolder, protocol: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of a metric of torchmetrics, which looks at images."""
    for number, images in enumerate(fake.real_batches("train")):
        metric.observe(images, number * EVAL_BATCH + torch.arange(len(images)), None)
    trainer = SimpleNamespace(datamodule=real, world_size=1)
    return metric.evaluate(SimpleNamespace(trainer=trainer, global_rank=0, protocol=lambda: protocol), errors=True)
