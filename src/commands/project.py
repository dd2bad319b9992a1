"""Latents of images that a user has: `python -m src project`."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from src.callbacks.pictures import grid
from src.commands.latents import Trained, save_latents
from src.commands.refusals import check_writable
from src.data.folder import ImageFolder
from src.images.pixels import from_uint8, to_uint8
from src.metrics.features import Extractor, exact_float32
from src.metrics.lpips import LPIPS
from src.metrics.weights import MissingWeights

CANDIDATES = 1024  # samples among which the search begins
PRIOR = 0.1  # weight of keeping to what a sample could be
SCALES = (1, 2, 4)  # by which pixels are averaged before they are compared


def project(
    ckpt_path: str,
    images: str,
    output: str,
    steps: PositiveInt = 300,
    lr: PositiveFloat = 0.05,
    classes: str | None = None,
    distance: Literal["auto", "lpips", "features", "pixels"] = "auto",
    extractor: Extractor | None = None,
    max_images: PositiveInt = 16,
    seed: int = 0,
    cache_dir: str = ".cache",
) -> None:
    """Find the latents, or the styles w of each layer, from which a generator makes images like yours.

    Args:
        ckpt_path: checkpoint of the generator.
        images: folder or .zip of images; they are brought to the size of the generator.
        output: new or empty folder for originals beside reconstructions, and for the latents.
        steps: of the optimization.
        lr: its learning rate, which falls to 0.
        classes: of the images in turn, where the generator has classes; by default that of the nearest sample.
        distance: compared beside pixels: LPIPS, features, or nothing; "auto" is the first whose weights are at hand. A
            line says which.
        extractor: whose features are compared; that of the first metric of the checkpoint by default.
        max_images: the first so many of the folder.
        seed: of the samples with which the search begins.
        cache_dir: decoded images are kept here.

    Raises:
        ValueError: naming what is missing, or does not go together.
    """
    folder = Path(output)
    check_writable(output, "--output")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{output} is not empty: choose another --output, or empty it")
    if extractor and distance != "features":
        if distance != "auto":
            raise ValueError(f"--distance {distance} compares no features: leave out --extractor, or take features")
        distance = "features"
    trained = Trained(ckpt_path, seed)
    original = pictures(images, trained, max_images, cache_dir)
    metric = trained.gan.first_metric
    unlike = Distance(from_uint8(original).to(trained.gan.device), distance, extractor or (metric and metric.extractor))
    z, labels = nearest(trained, unlike, classes)
    styles = trained.w_of(z, labels) if trained.num_styles else None
    z, labels, styles = on(trained.gan.device, z, labels, styles)
    before = unlike(reconstruction(trained, z, labels, styles))
    found = (z if styles is None else styles).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([found], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        if styles is None:
            made = reconstruction(trained, found, labels, None)
            prior = (found.square().flatten(1).mean(1) - 1).square()  # latents are normal: their mean square is 1
        else:
            made = reconstruction(trained, z, labels, found)
            prior = (found - styles).square().mean((1, 2))  # near those of a sample
        optimizer.zero_grad()
        (unlike(made) + PRIOR * prior).sum().backward()
        optimizer.step()
        schedule.step()
    if styles is None:
        z = found.detach()
    else:
        styles = found.detach()
    with torch.no_grad():
        made = reconstruction(trained, z, labels, styles)
    after, made = unlike(made), to_uint8(made).cpu()
    folder.mkdir(parents=True, exist_ok=True)
    pairs = torch.stack([original, made], 1).flatten(0, 1)
    grid(pairs, 2 * min(4, len(original))).save(folder / "projection.png")
    save_latents(folder / "latents.safetensors", z, labels, styles)
    levels = (made.float() - original.float()).abs().mean()
    print(f"{len(original)} images: distance {before.mean():.4f} -> {after.mean():.4f}, {levels:.1f} grey levels apart")
    print(f"originals beside reconstructions in {folder / 'projection.png'}")
    print(f"latents in {folder / 'latents.safetensors'}, for `interpolate --latents`")


def pictures(root: str, trained: Trained, number: int, cache_dir: str) -> Tensor:
    """The first images uint8 [N, C, H, W] of a folder, of the size of those that the generator makes."""
    facts = {"image_size": list(trained.classes.image_size), "channels": trained.classes.channels}
    try:
        data = ImageFolder(root, labels=False, splits=False, cache_dir=f"{cache_dir}/images", **facts)
        data.prepare_data()
        data.setup("test")
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace("--data.root", "--images").replace("--data.", "--")) from error
    return torch.from_numpy(np.array(data.split("train")[0][:number]))


class Distance:
    """How unlike images are: by pixels at several scales, and by what LPIPS or an extractor sees in them.

    Args:
        original: [N, C, H, W] in [-1, 1].
        kind: as of `project`.
        extractor: whose features may be compared.

    Raises:
        MissingWeights: what was asked for needs weights that are not at hand.
        ValueError: it does not go with these images, or there is no extractor.
    """

    def __init__(self, original: Tensor, kind: str, extractor: Extractor | None):
        self.original, self.see = original, None
        used, without = "alone", []
        for tried in {"auto": ("lpips", "features"), "pixels": ()}.get(kind, (kind,)):
            try:
                see, name = seeing(tried, extractor, original.device)
                if not see(original[:1].clone().requires_grad_(True)).requires_grad:
                    raise ValueError(f"{name} are those of images with other channels")
            except (MissingWeights, ValueError) as error:
                if kind != "auto":
                    raise
                without.append(str(error))
            else:
                self.see, used = see, f"and by {name}"
                break
        print(f"distance by pixels {used}{': ' if without else ''}{'; '.join(without)}", flush=True)
        self.features = self.features_of(original)
        if self.see:
            size = self.features.square().sum(1).clamp(min=1e-6)
            self.size = torch.ones_like(size) if tried == "lpips" else size

    def features_of(self, images: Tensor) -> Tensor | None:
        if self.see is None:
            return None
        with exact_float32(images.device):
            return self.see(images)

    def __call__(self, made: Tensor) -> Tensor:
        """Of images [N, C, H, W], one for each original: [N]."""
        return self.between(made, self.features_of(made), slice(None))

    def between(self, made: Tensor, features: Tensor | None, which: int | slice) -> Tensor:
        """Of images and their features to some of the originals."""
        gap = made - self.original[which]
        scales = [F.avg_pool2d(gap, scale) for scale in SCALES if min(gap.shape[2:]) >= scale]
        pixels = sum(scale.square().mean((1, 2, 3)) for scale in scales)
        if features is None:
            return pixels
        return pixels + (features - self.features[which]).square().sum(1) / self.size[which]


def seeing(kind: str, extractor: Extractor | None, device: torch.device) -> tuple[Callable[[Tensor], Tensor], str]:
    """What makes features [N, D] of images in [-1, 1], and their name.

    Raises:
        MissingWeights: its weights are not at hand.
        ValueError: there is no extractor.
    """
    if kind == "lpips":
        network = LPIPS().to(device)
        return network, f"LPIPS of {network.name}"
    if extractor is None:
        raise ValueError("the checkpoint has no metric of features (name an --extractor)")
    extractor.to(device).load()
    return lambda images: extractor.features((images + 1) * 127.5), f"the features of {extractor.name}"


@torch.no_grad()
def nearest(trained: Trained, distance: Distance, classes: str | None) -> tuple[Tensor, Tensor | None]:
    """Latents and labels of the samples that are nearest to the images: where the search begins."""
    numbers, count = torch.arange(CANDIDATES), len(distance.original)
    labels = trained.labels(numbers.tolist(), classes)
    wanted = trained.labels(list(range(count)), classes) if classes else None
    least, best = torch.full((count,), torch.inf), torch.zeros(count, dtype=torch.int64)
    for some in numbers.split(16):
        here = None if labels is None else labels[some]
        made = reconstruction(trained, trained.gan.latents_of(some), here, None)
        features = distance.features_of(made)
        for image in range(count):
            far = distance.between(made, features, image).cpu()
            if wanted is not None:
                far[here != wanted[image]] = torch.inf
            if far.min() < least[image]:
                least[image], best[image] = far.min(), some[far.argmin()]
    return trained.gan.latents_of(best), None if labels is None else labels[best]


def reconstruction(trained: Trained, z: Tensor, labels: Tensor | None, styles: Tensor | None) -> Tensor:
    """Images [N, C, H, W] in [-1, 1], on the device of the generator; of styles, where they are given."""
    z, labels, styles = on(trained.gan.device, z, labels, styles)
    return trained.network(z, labels) if styles is None else trained.network.from_styles(styles, z)


def on(device: torch.device, *values: Tensor | None) -> list[Tensor | None]:
    return [value if value is None else value.to(device) for value in values]
