"""Features of sets of images: collected over the processes, summed in float64, and kept on disk for the real ones."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from src.metrics.features import Extractor

CHUNK = 50  # images of one chunk of a split, which belongs to process chunk mod world size
SCHEMA = 1  # raise it when the file would hold other numbers


class Features:
    """Features of a set of images, in the order of the images, on the CPU.

    Args:
        values: float32 [N, d].
        logits: float32 [N, K] of the extractor's own classes, or None.
        labels: int64 [N], or None.
        factor: float64 [d, r], if it is known already; see the property.

    Raises:
        ValueError: fewer than two images, or features that are not finite.
    """

    def __init__(
        self, values: Tensor, logits: Tensor | None = None, labels: Tensor | None = None, factor: Tensor | None = None
    ):
        if len(values) < 2:
            raise ValueError(
                f"{len(values)} images are too few for a figure: it takes 2 real and 2 generated ones at least"
            )
        if not values.isfinite().all():
            raise ValueError(
                f"features of {(~values.isfinite()).any(1).sum()} of {len(values)} images are not finite:"
                " the images, or the weights of the extractor, are damaged"
            )
        self.values, self.logits, self.labels = values, logits, labels
        if factor is not None:
            self.factor = factor
        self.radii: dict[tuple[int, int], Tensor] = {}  # of the balls around the images, for `src.metrics.manifold`

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> Tensor:
        """float64 [d]"""
        return self.values.double().mean(0)

    @cached_property
    def covariance(self) -> Tensor:
        """float64 [d, d], unbiased"""
        centred = self.values.double() - self.mean
        return centred.T @ centred / (len(self) - 1)

    @cached_property
    def factor(self) -> Tensor:
        """float64 [d, rank], see `factor_of`"""
        return factor_of(self.covariance)

    def select(self, which: Tensor) -> "Features":
        """Some of the images.

        Args:
            which: bool [N], or their positions int64.
        """
        return Features(*(None if part is None else part[which] for part in (self.values, self.logits, self.labels)))


def factor_of(covariance: Tensor) -> Tensor:
    """L [d, rank] with covariance = L L', without the directions that are rounding noise."""
    noise = len(covariance) * torch.finfo(covariance.dtype).eps
    triangle, failed = torch.linalg.cholesky_ex(covariance)  # a tenth of the time of eigenvectors, for full rank only
    pivots = triangle.diagonal().square()
    if not failed and pivots.min() > noise * pivots.max():
        return triangle
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > noise * values[-1]
    return vectors[:, keep] * values[keep].sqrt()


class Collector:
    """Gathers the features that each process computes for its own share of the images.

    Args:
        extractor: of the features.
    """

    def __init__(self, extractor: Extractor):
        self.extractor = extractor
        self.parts: list[tuple[Tensor, ...]] = []

    def update(self, images: Tensor, indices: Tensor, labels: Tensor | None = None) -> None:
        """Computes the features of some images.

        Args:
            images: uint8 [B, C, H, W].
            indices: int64 [B], the number of each image; no number comes twice over all processes.
            labels: int64 [B], or None.
        """
        values, logits = self.extractor.both(images)
        part = (indices, values, logits, labels)
        self.parts.append(tuple(torch.empty(0) if tensor is None else tensor.detach().cpu().clone() for tensor in part))

    def gather(self) -> Features:
        """The same features on every process, in the order of the indices; every process must call it."""
        parts = self.parts
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone: list = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, parts)
            parts = [part for share in everyone for part in share]
        if not parts:
            raise ValueError("no image was generated: raise --model.val_images or --model.test_images")
        indices, values, logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        order = indices.argsort()
        return Features(*(part[order] if len(part) else None for part in (values, logits, labels)))


def real_features(
    batches: Iterable[Tensor],
    labels: np.ndarray | None,
    num_images: int,
    fingerprint: str,
    extractor: Extractor,
    folder: str | Path,
    rank: int = 0,
    world_size: int = 1,
) -> Features:
    """Features of a split of real images, computed once for all runs; every process must call it.

    They lie in a file that is named after, and holds, what they depend on. A damaged file is made anew.

    Args:
        batches: uint8 images [b, C, H, W] of this process: every `world_size`-th chunk of 50.
        labels: int64 [N] of the whole split, or None.
        num_images: N.
        fingerprint: of pixels and labels.
        extractor: of the features.
        folder: where the files are.
        rank: this process.
        world_size: number of processes.
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
    bar = tqdm(
        total=num_images,
        desc=f"{extractor.name} features of the real images",
        unit="image",
        leave=False,
        disable=hidden,
    )
    with bar:
        for number, images in enumerate(batches):
            start = (rank + number * world_size) * CHUNK
            indices = torch.arange(start, start + len(images))
            collector.update(images, indices, None if labels is None else torch.from_numpy(labels)[indices])
            bar.update(len(images) * world_size)
    features = collector.gather()
    if rank == 0:
        write(path, text, features)
    return features


def write(path: Path, key: str, features: Features) -> None:
    """Replaces the file in one step, so that processes that write at once leave the file of one of them."""
    parts = {name: getattr(features, name) for name in ("values", "logits", "labels", "factor")}
    temporary = path.with_suffix(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: part.contiguous() for name, part in parts.items() if part is not None}
        facts = json.dumps({"key": key, "digest": digest(kept)})  # one entry: safetensors orders several at random
        save_file(kept, temporary, metadata={"facts": facts})
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
        features = Features(*(parts.get(name) for name in ("values", "logits", "labels", "factor")))
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
