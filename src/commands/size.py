"""The size of the images of a folder, where none is said: the largest that there is time for."""

from collections.abc import Callable
from math import gcd
from statistics import median
from typing import Any, NamedTuple

import torch

from src.data.folder import file_sizes

Size = tuple[int, int]  # height and width
SMALLEST = 32  # pixels of the shorter side below which images are not halved
STEPS = 3000  # that images of SMALLEST pixels take at least, twice as many those of twice the side
AT_MOST = {False: 32, True: 64}  # pixels of the shorter side without and with a GPU, where the time is not known


class Measured(NamedTuple):
    """What is known of a run once some steps were trained.

    Args:
        steps: that fit into its time.
        seconds: of a step.
        period: steps that were measured.
        lacking: whether the weights of a metric are missing.
        batch_size: images of a step.
    """

    steps: int
    seconds: float
    period: int
    lacking: bool
    batch_size: int


def undecided(run: Any) -> bool:
    """Whether the images are those of a folder, and nothing says their size."""
    return run.data.class_path == "src.data.folder.ImageFolder" and run.data.init_args.image_size is None


def candidates(run: Any) -> list[Size]:
    """Sizes that the images of a folder can be learned at, the smallest first.

    The largest is that of the files where all agree and networks can halve it, otherwise a square of a power of two
    within half of them; the others are its halves.

    Args:
        run: options of `fit`.
    """
    sizes = file_sizes(run.data.init_args.root, run.data.init_args.splits)
    found = [sizes[0]]
    if len(set(sizes)) > 1 or not suits(sizes[0]):
        side = 1 << int(median(map(min, sizes))).bit_length() - 1
        found = [(side, side)]
    while min(found[0]) >= 2 * SMALLEST:
        found.insert(0, (found[0][0] // 2, found[0][1] // 2))
    return found


def suits(size: Size) -> bool:
    """Whether networks can halve a size until its shorter side is less than 8."""
    halved = gcd(*size) & -gcd(*size)  # the largest power of two that divides both sides
    return halved > 1 and min(size) // halved < 8


def needed(size: Size) -> int:
    """Steps that images of a size take at least."""
    return STEPS * max(SMALLEST, min(size)) // SMALLEST


def set_size(run: Any, size: Size) -> None:
    run.data.init_args.image_size = size[0] if size[0] == size[1] else list(size)


def by_time(run: Any, measured: Callable[[], Measured]) -> tuple[Measured, str]:
    """Sets the largest size whose steps fit into the time, or the smallest.

    Args:
        run: options of `fit`; changed in place.
        measured: trains some steps of the size that is set.

    Returns:
        What was measured at this size, and which one it is, in words.
    """
    best, *larger = candidates(run)
    set_size(run, best)
    found, why = measured(), ""
    for size in larger:
        set_size(run, size)
        tried = measured() if found.steps >= needed(size) else found
        if tried.steps < needed(size):
            why = f", since {spelled(size)} takes {needed(size):,} steps and at most {tried.steps:,} fit"
            break
        best, found = size, tried
    set_size(run, best)
    return found, f"data.image_size {spelled(best)}{why}; "


def by_machine(run: Any) -> str:
    """Sets the size of a run whose end is not known.

    Args:
        run: options of `fit`; changed in place.

    Returns:
        Which one it is, in words.
    """
    limit = AT_MOST[torch.cuda.is_available() and run.trainer.accelerator != "cpu"]
    sizes = candidates(run)
    set_size(run, max([size for size in sizes if min(size) <= limit] or sizes[:1]))
    said = f"data.image_size {run.data.init_args.image_size}"
    if min(sizes[-1]) > limit:
        said += f" of up to {spelled(sizes[-1])}: with --minutes it is the largest that there is time for"
    return said


def spelled(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
