"""The strongest directions of a generator, on a sheet: `python -m src directions`."""

from typing import Literal

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor, nn

from src.callbacks.pictures import grid
from src.commands.latents import Trained
from src.commands.refusals import check_file
from src.networks.base import Generator
from src.networks.equalized import ModulatedConv

SAMPLES = 4096  # of which the deviation along each direction is taken


def directions(
    ckpt_path: str,
    output: str,
    number: int = 0,
    method: Literal["sefa", "pca"] = "sefa",
    count: PositiveInt = 8,
    strength: PositiveFloat = 3.0,
    columns: PositiveInt = 7,
    seed: int = 0,
    classes: str | None = None,
    truncation: float = 1.0,
) -> None:
    """Draw a sheet of the directions that change a sample most, a row each; without labels or training.

    Args:
        ckpt_path: checkpoint of the generator.
        output: the sheet, .png.
        number: of the sample in the middle of each row, as `predict` numbers it.
        method: "sefa" takes what the first weights enlarge most (arXiv:2007.06600); "pca" how w varies most
            (arXiv:2004.02546), where there is a w.
        count: directions.
        strength: deviations from the sample at the ends of a row.
        columns: images a row.
        seed: of the noise.
        classes: the class of the sample; by default that which `predict` gives.
        truncation: as of `predict`.

    Raises:
        ValueError: naming what does not go together.
    """
    check_file(output, "--output", ".png")
    trained = Trained(ckpt_path, seed, truncation)
    if method == "pca" and not trained.num_styles:
        raise ValueError("--method pca needs a w, and this generator has none: take sefa")
    z, labels = trained.gan.latents_of(torch.tensor([number])), trained.labels([number], classes)
    styles = trained.w_of(z, labels) if trained.num_styles else None
    at = z.flatten(1) if styles is None else styles[:, 0]
    others = torch.randn(SAMPLES, at.shape[1], generator=torch.Generator().manual_seed(0))
    if styles is not None:
        among = torch.arange(SAMPLES) % max(trained.classes.num_classes, 1) if labels is not None else None
        others = trained.w_of(trained.gan.latents_of(torch.arange(SAMPLES)), among)[:, 0]
    found = sefa(trained.network.generator, at.shape[1]) if method == "sefa" else others.T.cov()
    axes = strongest(found, count)  # [count, D]
    reach = strength * (others @ axes.T).std(0)
    steps = torch.linspace(-1, 1, columns) if columns > 1 else torch.zeros(1)
    moved = at + (axes[:, None] * reach[:, None, None] * steps[:, None]).flatten(0, 1)
    if styles is None:
        images = trained.images(moved.unflatten(1, z.shape[1:]), repeated(trained.shares(labels), len(moved)))
    else:
        styles = moved[:, None].expand(-1, trained.num_styles, -1)
        images = trained.images(repeated(z, len(moved)), styles=styles)
    grid(images, columns).save(output)
    print(f"{len(axes)} directions of {'w' if trained.num_styles else 'z'} in {output}, the strongest first")


def repeated(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values.expand(count, *values.shape[1:])


def strongest(symmetric: Tensor, count: int) -> Tensor:
    """Eigenvectors [count, D] of the largest eigenvalues of a matrix [D, D]; the largest entry of each is positive."""
    vectors = torch.linalg.eigh(symmetric.double()).eigenvectors.flip(1).T[:count]
    signs = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return (vectors * signs).float()


def sefa(generator: Generator, size: int) -> Tensor:
    """The sum of A^T A [size, size] over the weights A that latents, or styles, meet first.

    Args:
        generator: with styles, or whose first layer takes the latents.
        size: of a latent, or of a style.

    Raises:
        ValueError: its first layer is of another kind.
    """
    if generator.num_styles:
        weights = [m.style.weight * m.style.scale for m in generator.modules() if isinstance(m, ModulatedConv)]
        return sum(weight.T @ weight for weight in weights).cpu()
    for module in generator.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight[:, :size]  # behind the latents come those of the class
        elif isinstance(module, nn.ConvTranspose2d):
            weight = module.weight.flatten(1).T
        else:
            continue
        if weight.shape[1] == size:
            return (weight.T @ weight).cpu()
        break
    raise ValueError(f"the first layer of {type(generator).__name__} takes no latent of {size} numbers as a whole")
