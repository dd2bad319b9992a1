"""What the training step knows of its two players. Every family of networks subclasses both."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from src.engine.descriptions import Part


class Network(Part, nn.Module, ABC):
    """The facts of the data that both players are built from; the command line links them from the data.

    Args:
        image_size: height and width in pixels.
        channels: of the image: 1 grey, 3 RGB, 4 RGBA, or any other number.
        num_classes: of the condition, a class label [B] of dtype int64; 0: unconditional.

    Attributes:
        channels_last: whether it is faster with the weights of its convolutions in this order.

    Raises:
        ValueError: for a size or number of channels below 1, or a negative number of classes.
    """

    channels_last = True

    def __init__(self, image_size: tuple[int, int], channels: int, num_classes: int = 0):
        super().__init__()
        height, width = image_size
        if min(height, width, channels) < 1:
            raise ValueError(f"image_size {height}x{width} and channels {channels} must be at least 1")
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (unconditional) or more, not {num_classes}")
        self.image_size = (height, width)
        self.channels = channels
        self.num_classes = num_classes

    def check_condition(self, condition: Tensor | None) -> None:
        """Refuse labels that would be ignored, and their absence where they are needed.

        Raises:
            ValueError: if `condition` is given to an unconditional network or missing from a conditional one.
        """
        if self.num_classes > 0 and condition is None:
            raise ValueError(f"{type(self).__name__} has num_classes={self.num_classes}: pass a class label per image")
        if self.num_classes == 0 and condition is not None:
            raise ValueError(f"{type(self).__name__} is unconditional: set num_classes, or pass no condition")


class Generator(Network):
    """Latents to images: `forward(z [B, *latent_shape], condition=None) -> [B, channels, H, W]` in [-1, 1].

    Args:
        image_size: height and width in pixels.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.
        latent_shape: of one latent, which is drawn from N(0, 1).

    Attributes:
        num_styles: of a sample; 0 where there are none. Where there are, `forward(z, condition)` is, in evaluation,
            `from_styles(styles, z)`, and styles [B, num_styles, D] repeat w = `to_w(z, condition)` [B, D].

    Raises:
        ValueError: for facts that no image has, see `Network`.
    """

    num_styles = 0

    def __init__(
        self, image_size: tuple[int, int], channels: int, num_classes: int = 0, *, latent_shape: tuple[int, ...]
    ):
        super().__init__(image_size, channels, num_classes)
        self.latent_shape = tuple(latent_shape)
        self.output_shape: tuple[int, ...] = (channels, *self.image_size)
        self.columns = min(num_classes, 10) or None  # of a grid of samples: a column a class, up to ten

    @abstractmethod
    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Latents [B, *latent_shape] -> images [B, channels, H, W] in [-1, 1]; in training some are not bounded."""

    def fit(self, data: Dataset) -> None:
        """Fits what is fitted in closed form, on every process, before the first step; nothing here.

        Args:
            data: what training reads: a list of indices -> images [n, C, H, W], uint8, or float32 in [-1, 1] where they
                are measured; and labels int64 [n], or None.
        """

    def as_images(self, samples: Tensor, indices: Tensor, condition: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """What of the samples is shown and scored, where a sample is not simply one image.

        Args:
            samples: [B, *output_shape].
            indices: int64 [B], their numbers.
            condition: of the samples.

        Returns:
            Images [M, C, H, W], the number of each int64 [M], and their labels int64 [M] or None.
        """
        return samples, indices, condition if isinstance(condition, Tensor) else None


class Discriminator(Network):
    """Images to logits: `forward(x [B, channels, H, W], condition=None) -> [B]`, high where x looks real.

    Args:
        image_size: height and width in pixels.
        channels: of the image.
        num_classes: of the condition; 0: unconditional.

    Attributes:
        independent: a logit depends on its image and the weights alone, not on the other images (batch norm) or on how
            often the network was called (spectral norm): real and generated images are then judged in one call.

    Raises:
        ValueError: for facts that no image has, see `Network`.
    """

    independent = False

    @abstractmethod
    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1] -> logits [B]."""

    def meet(self, generator: Generator) -> None:
        """Told the other player, once, before training: for what it takes from it; nothing here."""
