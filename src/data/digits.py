"""The handwritten digits that come with scikit-learn: 1,797 images that need no download."""

from typing import Any

import numpy as np

from src.data.images import ImageDataModule
from src.data.sizes import resized

NUM_TRAIN = 1437


class Digits(ImageDataModule):
    """Handwritten digits, 8x8 grey, 10 classes: 1,437 training and 360 test images, part of scikit-learn.

    Args:
        image_size: side, or [height, width], in pixels; other than 8, the images are stretched (bicubic).

    Source: https://archive.ics.uci.edu/dataset/80
    """

    def __init__(self, image_size: int | list[int] = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.describe(image_size, channels=1, class_names=[str(digit) for digit in range(10)])

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """One split of a fixed random partition."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.target))  # the one NumPy stream that never changes
        order = order[:NUM_TRAIN] if split == "train" else order[NUM_TRAIN:]
        images = (digits.images[order, None] * 255 / 16).round().astype(np.uint8)
        return resized(images, self.image_size), digits.target[order]
