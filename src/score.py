"""Scores folders of images from any program, and compares scores: `python -m src score`, `python -m src compare`."""

import json
from pathlib import Path
from typing import Any, Literal

import torch

from src.data.folder import ImageFolder
from src.metrics.base import Metric
from src.metrics.fid import ClassFrechetDistance, FrechetDistance
from src.metrics.statistics import Features, real_features
from src.refusals import check_file
from src.report import say_figures

# What may differ between two figures that are compared: it is what one compares.
FREE = ("seed", "step", "generator", "real", "fake", "trained_on")


def score(
    real: str,
    fake: str,
    metrics: list[Metric] | None = None,
    image_size: int | list[int] | None = None,
    channels: Literal[1, 3, 4] | None = None,
    resize: Literal["crop", "stretch"] = "crop",
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
        max_bad: largest share of unreadable files, which are named and skipped.
        cache_dir: decoded images and features are kept here.
        output: JSON file to write the figures to.
    """
    if output:
        check_file(output, "--output")
    shared = {"image_size": image_size, "channels": channels, "resize": resize, "max_bad": max_bad}
    shared |= {"cache_dir": f"{cache_dir}/images"}
    try:
        sets = {"real": ImageFolder(real, **shared), "fake": ImageFolder(fake, **shared)}
        for data in sets.values():
            data.prepare_data()
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


def compare(files: list[str]) -> None:
    """Put the figures of several metrics.json side by side; figures of unlike protocol are refused.

    Args:
        files: written by `test` or `score`.

    Raises:
        ValueError: a file that is none, or two figures of one name that were measured differently.
    """
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for file in files:
        try:
            figures = json.loads(Path(file).read_bytes())["results"]
            wanted = ("value", "error", "protocol")
            runs[file] = {figure["name"]: {key: figure[key] for key in wanted} for figure in figures}
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no figures: name a metrics.json that `test` or `score` wrote") from error
    for name in dict.fromkeys(name for figures in runs.values() for name in figures):
        having = {file: figures[name] for file, figures in runs.items() if name in figures}
        (first_file, first), *others = having.items()
        for file, figure in others:
            unlike = [
                f"{key} {first['protocol'].get(key)} and {figure['protocol'].get(key)}"
                for key in sorted(first["protocol"].keys() | figure["protocol"].keys())
                if key not in FREE and first["protocol"].get(key) != figure["protocol"].get(key)
            ]
            if unlike:
                raise ValueError(f"{name} of {first_file} and {file} cannot be compared: {'; '.join(unlike)}")
        print(name)
        for file, figure in having.items():
            error = "" if figure["error"] is None else f" ± {figure['error']:.4f}"
            print(f"  {figure['value']:.4f}{error}  {file}")
