"""A trained generator as the commands that make pictures take it, and the latents of their samples."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from src.commands.truncation import Truncated, say_truncation
from src.data.requests import Requests
from src.engine.weights import read_checkpoint
from src.gan import GAN
from src.images.pixels import to_uint8


class Trained:
    """The generator of a checkpoint, on the fastest device, and the names of its classes.

    Args:
        path: of the checkpoint.
        seed: of the noise, as `predict` takes it.
        truncation: as `predict` takes it.

    Raises:
        ValueError: as `read_checkpoint`.
    """

    def __init__(self, path: str, seed: int = 0, truncation: float = 1.0):
        self.classes = Requests(**read_checkpoint(path)["facts"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.gan = GAN.load_from_checkpoint(path, device).eval().requires_grad_(False)
        self.gan.seed = seed
        say_truncation(self.gan.generator, truncation)
        self.network = Truncated(self.gan.average, truncation).eval()

    @property
    def num_styles(self) -> int:
        return self.network.num_styles

    def labels(self, numbers: list[int], classes: str | None) -> Tensor | None:
        """Classes [B] of samples, as `predict` gives them; or `classes`, of the samples in turn.

        Raises:
            ValueError: as `Requests.ask`.
        """
        self.classes.ask(numbers, classes, 1)
        return self.classes.conditions(torch.arange(len(numbers)) if classes else torch.tensor(numbers))

    def shares(self, labels: Tensor | None) -> Tensor | None:
        """Labels [B] as shares of classes [B, num_classes], between which one can be."""
        return None if labels is None else F.one_hot(labels, self.classes.num_classes).float()

    def w_of(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Latents -> styles [B, num_styles, D], on the CPU."""
        device = self.gan.device
        w = self.network.to_w(z.to(device), None if labels is None else labels.to(device))
        return w[:, None].expand(-1, self.num_styles, -1).cpu()

    def images(self, z: Tensor, shares: Tensor | None = None, styles: Tensor | None = None) -> Tensor:
        """Images uint8 [B, C, H, W], one a row.

        Args:
            z: latents [B, *latent_shape].
            shares: of classes [B, num_classes], where there are classes.
            styles: [B, num_styles, D], which stand for the latents, but for their noise.

        Raises:
            ValueError: the generator takes labels alone, and these are between classes; or a sample is no single image.
        """
        numbers, name = torch.arange(len(z)), type(self.gan.generator).__name__
        try:
            with torch.no_grad():
                if styles is not None:
                    samples = self.gan.drawn(self.network.from_styles, numbers, styles, z)
                else:
                    labels = shares.argmax(1) if shares is not None and (shares.amax(1) == 1).all() else shares
                    samples = self.gan.drawn(self.network, numbers, z, labels)
        except (RuntimeError, IndexError) as error:
            if shares is None or styles is not None or isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(f"{name} knows no images between classes: name a single one with --classes") from error
        images, _, _ = self.gan.generator.as_images(to_uint8(samples), numbers, None)
        if len(images) != len(z):
            raise ValueError(f"a sample of {name} is not one image: `predict` shows what it makes")
        return images.cpu()


def save_latents(path: str | Path, z: Tensor, labels: Tensor | None, styles: Tensor | None) -> None:
    """Writes latents as a .safetensors file for `interpolate --latents`.

    Args:
        path: of the file.
        z: [B, *latent_shape].
        labels: [B], where there are classes.
        styles: [B, num_styles, D], where there are styles.
    """
    parts = {"z": z, "labels": labels, "styles": styles}
    held = {name: part.detach().cpu().contiguous() for name, part in parts.items() if part is not None}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(save(held))  # `save_file` would hide it from other users


def read_latents(path: str, trained: Trained) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What `save_latents` wrote.

    Raises:
        ValueError: it is no such file, or of another generator.
    """
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--latents {path} cannot be read ({error}): name a file that `project` wrote") from error
    z, labels, styles = (parts.get(name) for name in ("z", "labels", "styles"))
    fits = z is not None and tuple(z.shape[1:]) == tuple(trained.network.latent_shape)
    fits &= (labels is not None) == bool(trained.classes.num_classes)
    if not fits or (styles is not None and styles.shape[1] != trained.num_styles):
        raise ValueError(f"--latents {path} is of another generator: name what `project` wrote for this checkpoint")
    return z, labels, styles
