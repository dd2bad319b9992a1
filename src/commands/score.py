"""Scores folders of images from any program, and compares scores: `python -m src score`, `python -m src compare`."""

import json
from pathlib import Path
from typing import Literal

import torch

from src.commands.refusals import check_file
from src.data.folder import ImageFolder
from src.metrics.base import Metric
from src.metrics.fid import ClassFrechetDistance, FrechetDistance
from src.metrics.kept import real_features
from src.metrics.report import say_figures
from src.metrics.statistics import Features


def score(
    real: str,
    fake: str,
    metrics: list[Metric] | None = None,
    image_size: int | list[int] | None = None,
    channels: Literal[1, 3, 4] | None = None,
    resize: Literal["crop", "stretch"] = "crop",
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
        metrics: figures of merit; the FID by default.
        image_size: side, or [height, width]; by default that of the files, where they agree.
        channels: 1 grey, 3 RGB, 4 RGBA; found in the files by default.
        resize: how files are brought to `image_size`, "crop" or "stretch".
        labels: false takes no notice of classes.
        label_column: column of labels in labels.csv, where several might be it.
        splits: false takes folders named after splits (train, test) for classes; otherwise images of train/ are scored.
        max_bad: largest share of unreadable files, which are named and skipped.
        cache_dir: decoded images and features are kept here.
        output: JSON file to write the figures to.
    """
    if output:
        check_file(output, "--output")
    shared = {"image_size": image_size, "channels": channels, "resize": resize, "max_bad": max_bad}
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
    metrics = metrics or [FrechetDistance()]
    for metric in metrics:
        metric.setup(device, metrics[0].extractor)
        metric.require(metric.least, *(data.num_images("train") for data in sets.values()))
    for metric in metrics:
        features = {name: extract(data, metric, f"{cache_dir}/features", name) for name, data in sets.items()}
        protocol = {"real": real, "fake": fake, "image_size": list(sets["real"].image_size), "resize": resize}
        protocol |= {"channels": sets["real"].channels, "real_data": sets["real"].digest("train")[:8]}
        figures += metric.figures(features["real"], features["fake"], True, protocol)
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
