"""The common benchmark sets, as torchvision stores them."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.data.files import ImageFiles, decoded
from src.data.images import ImageDataModule
from src.data.sizes import resized

DIGITS = "0 1 2 3 4 5 6 7 8 9"
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


class TorchvisionData(ImageDataModule):
    """A labelled set that torchvision reads into memory.

    Args:
        root: folder of the downloaded files.
        download: fetch them first where they are missing.
        image_size: side, or [height, width], in pixels; none keeps the native size, others are stretched (bicubic).

    Raises:
        FileNotFoundError: the files are missing or damaged, and `download` is false.
    """

    native_size: int
    native_channels: int
    native_classes: str

    def __init__(
        self, root: str = "data", download: bool = False, image_size: int | list[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download
        image_size = self.native_size if image_size is None else image_size
        self.describe(image_size, self.native_channels, self.native_classes.split())

    @abstractmethod
    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        """Images uint8 of any layout with the native shape (N, C, H, W) or (N, H, W), and labels (N,)."""

    def prepare_data(self) -> None:
        """Fetch the files, if asked to."""
        if self.download:
            fetch(self, lambda: [self.arrays(split, download=True) for split in self.splits])

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one split."""
        try:
            images, labels = self.arrays(split, download=False)
        except Exception as error:  # torchvision does not check all that it reads
            raise FileNotFoundError(
                f"no {type(self).__name__} under {self.root}, or it is damaged: add --data.download true"
            ) from error
        images = np.asarray(images).reshape(-1, self.native_channels, self.native_size, self.native_size)
        return resized(np.ascontiguousarray(images), self.image_size), np.asarray(labels)


class MNIST(TorchvisionData):
    """Handwritten digits, 28x28 grey, 10 classes: 60,000 training and 10,000 test images.

    Source: http://yann.lecun.com/exdb/mnist
    """

    native_size, native_channels, native_classes = 28, 1, DIGITS

    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        from torchvision import datasets

        dataset = datasets.MNIST(self.root, train=split == "train", download=download)
        return dataset.data, dataset.targets


class FashionMNIST(TorchvisionData):
    """Articles of clothing, 28x28 grey, 10 classes: 60,000 training and 10,000 test images.

    Source: arXiv:1708.07747
    """

    native_size, native_channels = 28, 1
    native_classes = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"

    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        from torchvision import datasets

        dataset = datasets.FashionMNIST(self.root, train=split == "train", download=download)
        return dataset.data, dataset.targets


class CIFAR10(TorchvisionData):
    """Objects and animals, 32x32 RGB, 10 classes: 50,000 training and 10,000 test images.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """

    native_size, native_channels = 32, 3
    native_classes = "airplane automobile bird cat deer dog frog horse ship truck"

    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        from torchvision import datasets

        dataset = datasets.CIFAR10(self.root, train=split == "train", download=download)
        return dataset.data.transpose(0, 3, 1, 2), dataset.targets


class CIFAR100(TorchvisionData):
    """Objects and animals, 32x32 RGB, 100 classes: 50,000 training and 10,000 test images.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """

    native_size, native_channels, native_classes = 32, 3, CIFAR100_CLASSES

    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        from torchvision import datasets

        dataset = datasets.CIFAR100(self.root, train=split == "train", download=download)
        return dataset.data.transpose(0, 3, 1, 2), dataset.targets


class SVHN(TorchvisionData):
    """House numbers, one digit each, 32x32 RGB, 10 classes: 73,257 training and 26,032 test images.

    Source: http://ufldl.stanford.edu/housenumbers
    """

    native_size, native_channels, native_classes = 32, 3, DIGITS

    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        from torchvision import datasets

        dataset = datasets.SVHN(self.root, split=split, download=download)
        return dataset.data, dataset.labels


class STL10(TorchvisionData):
    """Objects and animals, 96x96 RGB, 10 classes: 5,000 training and 8,000 test images; the unlabelled are left out.

    Source: https://cs.stanford.edu/~acoates/stl10
    """

    native_size, native_channels = 96, 3
    native_classes = "airplane bird car cat deer dog horse monkey ship truck"

    def arrays(self, split: str, download: bool) -> tuple[Any, Any]:
        from torchvision import datasets

        dataset = datasets.STL10(self.root, split=split, download=download)
        return dataset.data, dataset.labels


class CelebA(ImageDataModule):
    """Aligned faces, 178 wide and 218 high, RGB, unlabelled: 162,770 training and 19,962 test images.

    Args:
        root: folder of the downloaded files; the images lie in celeba/img_align_celeba under it.
        download: fetch them first where they are missing.
        image_size: side, or [height, width], in pixels: the largest centred box of that aspect (178x178 for a
            square), scaled; none keeps 218x178.
        cache_dir: folder of the decoded images; may be deleted at any time between runs.

    Raises:
        FileNotFoundError: the files are missing, and `download` is false.

    Source: arXiv:1411.7766
    """

    partition = {"train": "0", "test": "2"}

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        image_size: int | list[int] | None = 64,
        cache_dir: str = ".cache/images",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download
        self.cache_dir = cache_dir
        self.describe((218, 178) if image_size is None else image_size, channels=3, class_names=[])

    def prepare_data(self) -> None:
        """Fetch the files, if asked to, and decode what is not in the cache yet."""
        if self.download:
            from torchvision import datasets

            fetch(self, lambda: datasets.CelebA(self.root, download=True))
        for split in self.splits:
            self.load(split)

    def load(self, split: str) -> tuple[np.ndarray, None]:
        """Open one split in the cache."""
        folder = Path(self.root, "celeba")
        images = folder / "img_align_celeba"
        listing = folder / "list_eval_partition.txt"
        if not (images.is_dir() and listing.is_file()):
            raise FileNotFoundError(f"no CelebA under {self.root}: add --data.download true")
        rows = [line.split() for line in listing.read_text().splitlines()]
        names = [row[0] for row in rows if row[1:] == [self.partition[split]]]
        pixels, _ = decoded(
            ImageFiles(images, names), self.image_size, self.channels, "crop", self.cache_dir, max_bad=0.0
        )
        return pixels, None


def fetch(data: ImageDataModule, download: Callable[[], object]) -> None:
    """Downloads, and says in one line why it could not be done."""
    try:
        download()
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"cannot download {type(data).__name__} ({error}): fetch it by other means into {data.root}"
        ) from error
