"""From one sample of a generator to the next, as a film or as a sheet: `python -m src interpolate`."""

from typing import Literal

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from src.callbacks.pictures import grid, to_image
from src.commands.latents import Trained, read_latents
from src.commands.numbers import numbers_of
from src.commands.refusals import check_file
from src.images.film import check_film, magnified, write_film


def interpolate(
    ckpt_path: str,
    output: str,
    seeds: str | None = None,
    classes: str | None = None,
    latents: str | None = None,
    frames: PositiveInt = 120,
    fps: PositiveFloat = 30.0,
    seed: int = 0,
    truncation: float = 1.0,
    space: Literal["z", "w"] | None = None,
    loop: bool = True,
    mix: int | None = None,
) -> None:
    """Walk from sample to sample: great circles in z, straight lines in w, between classes too.

    Args:
        ckpt_path: checkpoint of the generator.
        output: .mp4, .gif or .webp for a film; .png for a sheet with a row from each sample to the next.
        seeds: numbers of the samples, as `predict` takes them; "0-4" by default. One alone walks through the classes.
        classes: of the samples in turn, numbers or names; by default those that `predict` gives.
        latents: file of `project` in place of seeds: walks between the images that it found.
        frames: of the whole walk.
        fps: frames a second.
        seed: of the noise.
        truncation: as of `predict`.
        space: of the walk; "w" is the default of generators that have styles, and for those alone.
        loop: end where it began.
        mix: number of the first style, from 1, that stays that of the first sample: the coarse ones walk alone.

    Raises:
        ValueError: naming what does not go together.
    """
    check_film(output, others=[".png"])
    check_file(output, "--output")
    if latents and (seeds or classes):
        raise ValueError("--latents says where the walk leads: leave out --seeds and --classes")
    numbers = numbers_of(seeds or "0-4", "--seeds")
    trained = Trained(ckpt_path, seed, truncation)
    space = space or ("w" if trained.num_styles else "z")
    if space == "w" and not trained.num_styles:
        raise ValueError("--space w needs styles, and this generator has none: leave it out, or take z")
    if mix is not None and (space == "z" or not 1 <= mix < trained.num_styles):
        has = f"styles 1 to {trained.num_styles}" if trained.num_styles else "no styles"
        walks = " and walks in z" if trained.num_styles and space == "z" else ""
        raise ValueError(f"--mix {mix} needs a style that can stay, and this generator has {has}{walks}: change it")
    if latents:
        z, labels, styles = read_latents(latents, trained)
    else:
        count = max(len(numbers), len(classes.split(",")) if classes else 1)
        numbers = [numbers[place % len(numbers)] for place in range(count)]
        z, labels, styles = trained.gan.latents_of(torch.tensor(numbers)), trained.labels(numbers, classes), None
    if len(z) < 2:
        raise ValueError("a walk needs two samples: give --seeds two numbers, or --classes two classes")
    shares = trained.shares(labels)
    places = walk(len(z), frames, loop)
    along = great_circles(z, places)  # of the noise, in w
    if space == "w":
        styles = straight_lines(trained.w_of(z, labels) if styles is None else styles, places)
        if mix is not None:
            styles[:, mix - 1 :] = styles[:1, mix - 1 :]
        images = trained.images(along, styles=styles)
    else:
        images = trained.images(along, None if shares is None else straight_lines(shares, places))
    if output.endswith(".png"):
        grid(images, -(-frames // (len(z) if loop else len(z) - 1))).save(output)
    else:
        write_film(output, (magnified(to_image(image)) for image in images), fps)
    print(f"{frames} frames in {output}: {len(z)} samples, {'great circles in z' if space == 'z' else 'lines in w'}")


def walk(count: int, frames: int, loop: bool) -> Tensor:
    """Where each frame is [frames]: at 0.5 half-way from sample 0 to sample 1.

    A loop goes on from the last sample to the first, and stops a frame before it.
    """
    legs = count if loop else count - 1
    return torch.arange(frames, dtype=torch.float64) * legs / max(frames if loop else frames - 1, 1)


def ends(values: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The values before and behind each place, and the share of the way between them, as a column."""
    before = places.floor().long()
    share = (places - before).view(-1, *[1] * (values.ndim - 1))
    return values[before % len(values)].double(), values[(before + 1) % len(values)].double(), share


def straight_lines(values: Tensor, places: Tensor) -> Tensor:
    before, behind, share = ends(values, places)
    return before.lerp(behind, share).to(values.dtype)


def great_circles(z: Tensor, places: Tensor) -> Tensor:
    """Spherical interpolation of latents: normal in many dimensions, they lie near a sphere (arXiv:1609.04468).

    The length goes evenly from one to the other.
    """
    before, behind, share = ends(z.flatten(1), places)
    norms = before.norm(dim=1, keepdim=True), behind.norm(dim=1, keepdim=True)
    a, b = before / norms[0], behind / norms[1]
    angle = (a * b).sum(1, keepdim=True).clamp(-1, 1).acos()
    # Of nearly one direction it is a straight line, of opposite ones it goes by way of neither.
    small = angle.sin() < 1e-6
    sine = torch.where(small, 1.0, angle.sin())
    weights = torch.where(small, 1 - share, ((1 - share) * angle).sin() / sine)
    others = torch.where(small, share, (share * angle).sin() / sine)
    direction = weights * a + others * b
    return (direction * norms[0].lerp(norms[1], share)).to(z.dtype).unflatten(1, z.shape[1:])
