"""Sizes of images: reading one, and bringing images to it."""

import numpy as np
import torch
from torch.nn import functional

from src.data.order import chunks


def height_width(image_size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Read an image size.

    Args:
        image_size: side of a square, or [height, width], in pixels.

    Raises:
        ValueError: not one or two positive numbers.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size {image_size} is neither one positive number nor [height, width]")
    return size


def resized(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Stretch images by antialiased bicubic interpolation.

    Args:
        images: uint8 (N, C, H, W).
        image_size: (height, width) wanted.

    Returns:
        uint8 (N, C, height, width); `images` itself where nothing changes.
    """
    if images.shape[2:] == image_size:
        return images
    result = np.empty((*images.shape[:2], *image_size), np.uint8)
    for chunk in chunks(len(images), 1000, 0, 1):
        part = torch.from_numpy(images[chunk.start : chunk.stop]).float()
        part = functional.interpolate(part, size=image_size, mode="bicubic", antialias=True)
        result[chunk.start : chunk.stop] = part.round().clamp(0, 255).to(torch.uint8).numpy()
    return result
