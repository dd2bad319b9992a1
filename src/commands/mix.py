"""Coarse styles of some samples with the fine styles of others, on a sheet: `python -m src mix`."""

import torch

from src.callbacks.pictures import grid
from src.commands.latents import Trained
from src.commands.numbers import numbers_of
from src.commands.refusals import check_file


def mix(
    ckpt_path: str,
    output: str,
    rows: str = "0-3",
    columns: str = "4-9",
    first: int | None = None,
    seed: int = 0,
    classes: str | None = None,
    truncation: float = 1.0,
) -> None:
    """Draw a sheet of mixed styles: the coarse ones of the sample on the left, the fine ones of the sample above.

    It is Figure 3 of StyleGAN (arXiv:1812.04948). The noise is that of the sample on the left.

    Args:
        ckpt_path: checkpoint of a generator with styles.
        output: the sheet, .png.
        rows: numbers of the samples on the left, as `predict` takes them.
        columns: numbers of the samples above.
        first: number of the first style, from 2, that comes from above; by default the second half does.
        seed: of the noise.
        classes: of the samples in turn, those on the left first; by default those that `predict` gives.
        truncation: as of `predict`.

    Raises:
        ValueError: naming what does not go together.
    """
    check_file(output, "--output", ".png")
    left, above = numbers_of(rows, "--rows"), numbers_of(columns, "--columns")
    trained = Trained(ckpt_path, seed, truncation)
    if not trained.num_styles:
        name = type(trained.gan.generator).__name__
        raise ValueError(f"{name} of {ckpt_path} has no styles: name a checkpoint of stylegan2.Generator, for instance")
    first = trained.num_styles // 2 + 1 if first is None else first
    if not 2 <= first <= trained.num_styles:
        raise ValueError(f"--first {first} leaves nothing to mix: choose one of the styles 2 to {trained.num_styles}")
    z = trained.gan.latents_of(torch.tensor(left + above))
    styles = trained.w_of(z, trained.labels(left + above, classes))
    samples = trained.images(z, styles=styles)
    mixed = styles[: len(left)].repeat_interleave(len(above), 0)
    mixed[:, first - 1 :] = styles[len(left) :, first - 1 :].repeat(len(left), 1, 1)
    images = trained.images(z[: len(left)].repeat_interleave(len(above), 0), styles=mixed)
    header = torch.cat([torch.full_like(samples[:1], 255), samples[len(left) :]])
    below = torch.cat([samples[: len(left), None], images.unflatten(0, (len(left), -1))], 1)
    grid(torch.cat([header, below.flatten(0, 1)]), len(header)).save(output)
    coarse, fine = f"styles 1 to {first - 1} of the left", f"{first} to {trained.num_styles} of the top"
    print(f"{len(left)} x {len(above)} mixtures in {output}: {coarse}, {fine}")
