"""Sizes and channels of image files, from their headers alone."""

from typing import Literal

import numpy as np

from src.data.files import ImageFiles
from src.data.formats import opened, raw_mode, upright_size

NUM_HEADERS = 500  # files that are opened to find the size and the channels


def read_headers(files: ImageFiles) -> tuple[list[tuple[int, int]], Literal[1, 3, 4]]:
    """Sizes and channels of up to 500 evenly spaced files.

    Args:
        files: the images.

    Returns:
        The (height, width) of each readable file, upright, and the channels: 4 if all have transparency,
        otherwise 3 if any has colour or a palette, otherwise 1.

    Raises:
        ValueError: none of them can be read.
    """
    count = min(len(files.names), NUM_HEADERS)
    positions = np.linspace(0, len(files.names) - 1, count).round().astype(int)
    sizes, grey, transparent = [], [], []
    for position in positions:
        try:
            with files.open(files.names[position]) as file, opened(file) as image:
                sizes.append(upright_size(image))
                # Pillow opens grey of 16 bits with alpha as colour.
                grey.append(raw_mode(image).startswith("LA;") or (image.mode[0] in "1LIF" and image.mode != "LAB"))
                transparent.append(image.has_transparency_data)
        except Exception as error:  # counted, and named, when it is decoded
            reason = error
    if not sizes:
        raise ValueError(
            f"none of {count} files in {files.root} can be read, the last being {files.names[-1]} ({reason}): "
            "name a folder or a .zip whose files open in a viewer"
        )
    return sizes, 4 if all(transparent) else 1 if all(grey) else 3
