"""Features of sets of images: collected over the processes, summed in float64, and kept on disk for the real ones."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
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
GROUPS = 10  # of the jackknife
KEEP = 50_000  # images whose own features are held; of the others only sums are
PARTS = ("values", "logits", "labels", "indices", "rest")  # of `Features`, in a file
SCHEMA = 3  # raise it when the file would hold other numbers


class Features:
    """Features of a set of images, in the order of the images, on the CPU.

    Args:
        values: float32 [n, d].
        logits: float32 [n, K] of the extractor's own classes, or None.
        labels: int64 [n], or None.
        indices: int64 [n], the numbers of the images, ascending; 0, 1, 2, ... by default.
        rest: float64 [GROUPS, d + 1, d + 1], `sums` of the other images of the set, whose own features are not held.
    """

    def __init__(
        self,
        values: Tensor,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        indices: Tensor | None = None,
        rest: Tensor | None = None,
    ):
        self.values, self.logits, self.labels = values, logits, labels
        self.indices = torch.arange(len(values)) if indices is None else indices
        self.rest = rest
        self.assigned: Tensor | None = None  # the groups of a set that these are some of
        self.whole: tuple[Features, int] | None = None  # of which this is all but a group
        self.drawn: dict[int, Features] = {}
        self.memory: dict[Any, Any] = {}  # what metrics found out about these images

    def __len__(self) -> int:
        return len(self.values)

    @property
    def count(self) -> int:
        """Images in the mean and the covariance."""
        return len(self) + (0 if self.rest is None else int(self.rest[:, -1, -1].sum()))

    @cached_property
    def groups(self) -> Tensor:
        """int64 [n], the group of each image in a jackknife: even, and drawn, within each class where these are known.

        Labels of samples are not drawn, they have fixed shares: groups of other shares would make the error too large,
        and groups that are classes, where these take turns in a folder, many times too large.
        """
        if self.assigned is not None:
            return self.assigned
        drawn = random_numbers(self.indices)
        order = np.lexsort((drawn,) if self.labels is None else (drawn, self.labels.numpy()))
        groups = torch.empty(len(self), dtype=torch.int64)
        groups[torch.from_numpy(order)] = torch.arange(len(self)) % GROUPS
        return groups

    @cached_property
    def mean(self) -> Tensor:
        """float64 [d]"""
        total = self.values.double().sum(0)
        return (total if self.rest is None else total + self.rest[:, -1, :-1].sum(0)) / self.count

    @cached_property
    def sums(self) -> Tensor:
        """float64 [d + 1, d + 1], `sums` of all images, about `centre`."""
        if self.whole is not None:
            whole, group = self.whole
            mine = sums(whole.values[whole.groups == group], whole.centre)
            return whole.sums - mine - (0 if whole.rest is None else whole.rest[group])
        return sums(self.values, self.centre) + (0 if self.rest is None else self.rest.sum(0))

    @property
    def centre(self) -> Tensor | float:
        """The mean, for precision, unless the sums have begun before it was known."""
        return self.mean if self.rest is None else 0.0

    @property
    def covariance(self) -> Tensor:
        """float64 [d, d], unbiased"""
        total = self.sums[-1, :-1]
        return torch.addr(self.sums[:-1, :-1], total, total, alpha=-1 / self.count) / (self.count - 1)

    @cached_property
    def factor(self) -> Tensor:
        """float64 [d, rank], see `factor_of`"""
        return factor_of(self.covariance)

    def select(self, which: Tensor) -> "Features":
        """Some of the images whose features are held.

        Args:
            which: bool [n], or their positions int64.
        """
        parts = (self.values, self.logits, self.labels, self.indices)
        chosen = Features(*(None if part is None else part[which] for part in parts))
        chosen.assigned = self.groups[which]
        return chosen

    def without(self, group: int) -> "Features":
        """All images but those of a group."""
        others = self.select(self.groups != group)
        if self.rest is not None:
            others.rest = self.rest * (torch.arange(GROUPS) != group)[:, None, None]
        others.whole = (self, group)
        return others

    def some(self, number: int) -> "Features":
        """At most so many of the images, drawn at random: in a folder the first are of one class."""
        if len(self) <= number:
            return self
        if number not in self.drawn:
            chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:number]
            self.drawn[number] = self.select(chosen.sort().values)
        return self.drawn[number]


def random_numbers(indices: Tensor) -> np.ndarray:
    """A number in [0, 1) for each index [n], always the same one."""
    return table(int(indices.max()).bit_length() if len(indices) else 0)[indices.numpy()]


def groups_of(indices: Tensor) -> Tensor:
    """The group of a jackknife, int64 [n], of each image whose features are not held: drawn, for any number of them."""
    return torch.from_numpy(random_numbers(indices) * 2**20 % GROUPS).long()


@lru_cache
def table(bits: int) -> np.ndarray:
    """`random_numbers` of the first 2^bits indices; a longer table begins with a shorter one."""
    return np.random.RandomState(0).random_sample(2**bits)


def sums(values: Tensor, centre: Tensor | float = 0.0) -> Tensor:
    """X'X in float64 of values [N, d] less a centre, and a column of ones: products, sums and N in what adds up."""
    x = torch.cat([values.double() - centre, torch.ones(len(values), 1).double()], 1)
    return x.T @ x


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

    Beyond `keep` images only a random choice of them keeps its features, always the same one; the others go into sums.

    Args:
        extractor: of the features.
        keep: images whose own features are held.
    """

    def __init__(self, extractor: Extractor, keep: int = KEEP):
        self.extractor, self.keep = extractor, keep
        self.parts: list[tuple[Tensor, ...]] = []  # indices [b], values [b, d], logits [b, K or 0], labels [b, 1 or 0]
        self.rest: Tensor | None = None
        self.seen = 0
        self.end = 0  # beyond the largest index

    def update(self, images: Tensor, indices: Tensor, labels: Tensor | None = None) -> None:
        """Computes the features of some images.

        Args:
            images: uint8 [B, C, H, W].
            indices: int64 [B], the number of each image; no number comes twice over all processes.
            labels: int64 [B], or None.
        """
        values, logits = self.extractor.both(images)
        logits = values[:, :0] if logits is None else logits
        labels = indices[:, None][:, :0] if labels is None else labels[:, None]
        self.parts.append(tuple(part.detach().cpu().clone() for part in (indices, values, logits, labels)))
        self.seen += len(indices)
        self.end = max(self.end, int(indices.max()) + 1)
        if sum(len(part[0]) for part in self.parts) > self.keep * 5 // 4:
            self.release(self.chosen(torch.cat([part[0] for part in self.parts])))

    def chosen(self, indices: Tensor) -> Tensor:
        """Which images are kept, ascending: what is left out of some of them is left out of more of them too."""
        return indices[random_numbers(indices).argsort()[: self.keep]].sort().values

    def release(self, kept: Tensor) -> None:
        """Adds the images that are not kept to the sums and lets go of their features."""
        columns = [torch.cat(column) for column in zip(*self.parts, strict=True)]
        stay = torch.isin(columns[0], kept)
        groups = groups_of(columns[0])
        for group in groups[~stay].unique().tolist():
            more = sums(columns[1][~stay & (groups == group)])
            if self.rest is None:
                self.rest = more.new_zeros(GROUPS, *more.shape)
            self.rest[group] += more
        self.parts = [tuple(column[stay] for column in columns)]

    def gather(self) -> Features:
        """The same features on every process, in the order of the indices; every process must call it."""
        widths = [part.shape[1] for part in self.parts[0][1:]] if self.parts else [0, 0, 0]
        end, *widths = self.reduce(torch.tensor([self.end, *widths]), largest=True).tolist()
        if end == 0:
            raise ValueError("no image was generated: raise --model.val_images or --model.test_images")
        held = torch.zeros(end, dtype=torch.int64)
        for part in self.parts:
            held[part[0]] = 1
        kept = self.chosen(self.reduce(held).nonzero()[:, 0])
        if self.parts:
            self.release(kept)
        columns = []
        for number, dtype in enumerate((torch.float32, torch.float32, torch.int64)):
            column = torch.zeros(len(kept), widths[number], dtype=dtype)
            for part in self.parts:  # each image is of one process: the sum puts all into their places
                column[torch.searchsorted(kept, part[0])] = part[1 + number]
            columns.append(self.reduce(column) if widths[number] else None)
        rest = None
        if self.reduce(torch.tensor(self.seen)) > len(kept):
            size = widths[0] + 1
            rest = self.reduce(torch.zeros(GROUPS, size, size).double() if self.rest is None else self.rest)
        values, logits, labels = columns
        return Features(values, logits, None if labels is None else labels[:, 0], kept, rest)

    def reduce(self, mine: Tensor, largest: bool = False) -> Tensor:
        """The sum over all processes, or the largest."""
        if not (dist.is_available() and dist.is_initialized()):
            return mine
        everyones = mine.to(self.extractor.device, copy=True)
        dist.all_reduce(everyones, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return everyones.cpu()


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
        batches: uint8 images [b, C, H, W] of this process: every `world_size`-th chunk of 50.
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
            start = (rank + number * world_size) * CHUNK
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
