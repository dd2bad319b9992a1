"""Features of real images: computed once, then read from disk."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from src.engine.batches import EVAL_BATCH
from src.metrics.features import Extractor
from src.metrics.statistics import Collector, Features

PARTS = ("values", "logits", "labels", "indices", "rest")  # of `Features`, in a file
SCHEMA = 4  # raise it when the file would hold other numbers


def real_features(
    batches: Iterable[Tensor],
    labels: np.ndarray | None,
    num_images: int,
    fingerprint: str,
    extractor: Extractor,
    folder: str | Path,
    rank: int = 0,
    world_size: int = 1,
    name: str = "real",
) -> Features:
    """Features of a split of real images, computed once for all runs; every process must call it.

    They lie in a file that is named after, and holds, what they depend on. A damaged file is made anew.

    Args:
        batches: uint8 images [b, C, H, W] of this process: every `world_size`-th chunk of EVAL_BATCH.
        labels: int64 [N] of the whole split, or None.
        num_images: N.
        fingerprint: of pixels and labels.
        extractor: of the features.
        folder: where the files are.
        rank: this process.
        world_size: number of processes.
        name: what the progress bar calls the images.
    """
    key = {"schema": SCHEMA, "data": fingerprint, "num_images": num_images, "extractor": extractor.describe()}
    text = json.dumps(key, sort_keys=True)
    path = Path(folder) / f"{extractor.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    kept = [read(path, text) if rank == 0 else None]
    if world_size > 1:
        dist.broadcast_object_list(kept)
    if kept[0] is not None:
        return kept[0]

    collector = Collector(extractor)
    hidden = True if rank else None
    said = f"{extractor.name} features of the {name} images"
    with tqdm(total=num_images, desc=said, unit="image", leave=False, disable=hidden) as bar:
        for number, images in enumerate(batches):
            start = (rank + number * world_size) * EVAL_BATCH
            indices = torch.arange(start, start + len(images))
            collector.update(images, indices, None if labels is None else torch.from_numpy(labels)[indices])
            bar.update(len(images) * world_size)
    features = collector.gather()
    if rank == 0 and features.count > 1 and features.mean.isfinite().all():  # others are refused by `Metric.figures`
        write(path, text, features)
    return features


def write(path: Path, key: str, features: Features) -> None:
    """Replaces the file in one step, so that processes that write at once leave the file of one of them."""
    parts = {name: getattr(features, name) for name in (*PARTS, "mean", "factor")}
    temporary = path.with_suffix(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: part.contiguous() for name, part in parts.items() if part is not None}
        facts = json.dumps({"key": key, "digest": digest(kept)})  # one entry: safetensors orders several at random
        temporary.write_bytes(save(kept, {"facts": facts}))  # `save_file` would hide it from other users
        os.replace(temporary, path)
    except OSError as error:  # a full disk costs the next run some time, and this one nothing
        rank_zero_warn(f"features of the real images are not kept: {path} could not be written ({error.strerror})")
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: Path, key: str) -> Features | None:
    """What `write` wrote for this key; None if there is nothing, or nothing that can be trusted."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
        parts = load_file(path)
        if facts["digest"] != digest(parts):
            raise ValueError("other numbers than were written")
        features = Features(*(parts.get(name) for name in PARTS))
        features.mean, features.factor = parts["mean"], parts["factor"]
    except Exception as error:
        rank_zero_warn(f"{path} is damaged ({type(error).__name__}) and is made anew")
        return None
    if facts["key"] != key:
        rank_zero_warn(f"{path} is of other images or another extractor than its name says, and is made anew")
        return None
    return features


def digest(parts: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    result = hashlib.sha256()
    for name in sorted(parts):
        result.update(name.encode() + parts[name].numpy().tobytes())
    return result.hexdigest()
