"""What a camera does to an image before anybody sees it: the data holds measurements, the generator makes images."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from src.engine.descriptions import Part


class Measurement(Part, nn.Module, ABC):
    """A random, differentiable measurement y = f(x) of images; AmbientGAN, Bora et al., ICLR 2018.

    The discriminator compares the measurements that the data holds with measured fakes, so the generator has to make
    images whose measurements look right.
    """

    @abstractmethod
    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] -> measurements [B, C, H, W].

        Args:
            images: of one batch, each of which gets a measurement of its own.
            generator: stream of the random numbers; PyTorch's own by default.
        """

    def check(self, discriminator: Any) -> None:
        """Refuses a discriminator that would take these measurements for others.

        Raises:
            ValueError: what does not fit, and the remedy.
        """

    def beside(self, images: Tensor, measured: Tensor) -> Tensor:
        """Measures generated images that are compared with `measured`: anew, unless a measurement says otherwise.

        Args:
            images: [B, C, H, W] in [-1, 1].
            measured: measurements [B, C, H, W], as many.
        """
        return self(images)

    def repeat(self, images: Tensor, measured: Tensor) -> Tensor:
        """Measures images as `measured` were: with their masks, and without noise.

        Args:
            images: [B, C, H, W] in [-1, 1].
            measured: measurements [B, C, H, W].

        Raises:
            ValueError: if a measurement does not show how it was made.
        """
        raise ValueError(f"{type(self).__name__} cannot be repeated, since it does not show what was drawn for it")


class Whole(Measurement):
    """Hides nothing: where no measurement is given."""

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return images

    def repeat(self, images: Tensor, measured: Tensor) -> Tensor:
        return images


class Mask(Measurement):
    """Hides pixels, in all channels.

    Args:
        paired: hide of each generated image what is hidden of the real one beside it, in place of drawing anew. The
            data have one mask an image, by which D could know that image; with `paired` both sides have the same masks.
        level: of hidden pixels, -1 (black) to 1. No 8-bit image has the default, mid-grey, so that a measurement shows
            which pixels are hidden; with another level those that really have it count as hidden, too, where images
            are filled in or reconstructed.

    Raises:
        ValueError: for a level outside [-1, 1].
    """

    def __init__(self, level: float = 0.0, paired: bool = False):
        super().__init__()
        self.paired = paired
        if not -1 <= level <= 1:
            raise ValueError(f"level of {type(self).__name__} must be from -1 to 1, not {level:g}")
        self.level = level

    @abstractmethod
    def observed(self, images: Tensor, generator: Generator | None) -> Tensor:
        """Draws which pixels of images [B, C, H, W] are seen: bool [B, 1, H, W]."""

    def seen(self, measured: Tensor) -> Tensor:
        """Finds in measurements [B, C, H, W] which pixels were seen: bool [B, 1, H, W]."""
        return (measured != self.level).any(1, keepdim=True)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.where(self.observed(images, generator), images, self.level)

    def check(self, discriminator: Any) -> None:
        if getattr(discriminator, "mask", False) and self.level != 0:
            raise ValueError(
                "model.discriminator.mask takes mid grey for hidden, and model.measurement hides by"
                f" {self.level:g}: set its level to 0, or mask to false"
            )

    def beside(self, images: Tensor, measured: Tensor) -> Tensor:
        return self.repeat(images, measured) if self.paired else self(images)

    def repeat(self, images: Tensor, measured: Tensor) -> Tensor:
        return torch.where(self.seen(measured), images, self.level)


class MissingPixels(Mask):
    """Each pixel is missing, in all channels, independently of the others ("block pixels" in AmbientGAN).

    Args:
        share: probability that a pixel is missing, at least 0 and less than 1.
        level: of missing pixels, -1 (black) to 1; see `Mask`.
        paired: see `Mask`.

    Raises:
        ValueError: for another share or level.
    """

    def __init__(self, share: float = 0.5, level: float = 0.0, paired: bool = False):
        super().__init__(level, paired)
        check_share(self, "share", share)
        self.share = share

    def observed(self, images: Tensor, generator: Generator | None) -> Tensor:
        return torch.rand(images[:, :1].shape, device=images.device, generator=generator) >= self.share


class MissingPatch(Mask):
    """A rectangle at a random place is missing, or all but it ("block patch", "keep patch" in AmbientGAN).

    Args:
        size: height and width of the rectangle as a share of those of the image, at least 0 and less than 1.
        keep: whether the rectangle is what is seen, instead of what is missing.
        level: of missing pixels, -1 (black) to 1; see `Mask`.
        paired: see `Mask`.

    Raises:
        ValueError: for another size or level.
    """

    def __init__(self, size: float = 0.5, keep: bool = False, level: float = 0.0, paired: bool = False):
        super().__init__(level, paired)
        check_share(self, "size", size)
        self.size, self.keep = size, keep

    def observed(self, images: Tensor, generator: Generator | None) -> Tensor:
        places = torch.rand(len(images), 2, 1, device=images.device, generator=generator)
        inside = []
        for axis, side in enumerate(images.shape[2:]):
            length = round(self.size * side)
            start = (places[:, axis] * (side - length + 1)).floor()
            pixels = torch.arange(side, device=images.device)
            inside.append((pixels >= start) & (pixels < start + length))
        rectangle = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return rectangle if self.keep else ~rectangle


class BlurNoise(Measurement):
    """Gaussian blur, then Gaussian noise ("convolve and noise" in AmbientGAN).

    Args:
        blur: standard deviation of the blur in pixels, more than 0; images go on as their mirror images at the border.
        noise: standard deviation of the noise, in units of the images in [-1, 1], 0 or more.

    Raises:
        ValueError: for a blur that is not positive, or negative noise.
    """

    def __init__(self, blur: float = 1.0, noise: float = 0.2):
        super().__init__()
        if blur <= 0 or noise < 0:
            raise ValueError(f"BlurNoise needs blur > 0 and noise >= 0, got {blur} and {noise}")
        self.blur, self.noise = blur, noise

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        noise = torch.randn(images.shape, device=images.device, generator=generator)
        return self.repeat(images, images) + self.noise * noise

    def repeat(self, images: Tensor, measured: Tensor) -> Tensor:
        """The blur alone."""
        return blur_matrix(images, 2, self.blur) @ images @ blur_matrix(images, 3, self.blur).T


class RandomProjection(Measurement):
    """The orthogonal projection on a random subspace, as an image: y = P x with P = P' = P^2.

    AmbientGAN's y = theta' x, with Gaussian theta, has no shape of an image, and its discriminator is also given theta.
    Here the projection itself, P = S D' M D S (S random signs, D the orthonormal cosine transform, M random
    coefficients, of each channel on its own), is seen as an image. Signs before an orthonormal transform spread every
    image evenly over the coefficients (subsampled randomized transforms, arXiv:1011.1595), and P costs two small matrix
    products a side instead of a matrix of (C H W)^2. P x may leave [-1, 1].

    Args:
        share: expected dimension of the subspace as a share of the number of pixels, more than 0 and at most 1.

    Raises:
        ValueError: for another share.
    """

    def __init__(self, share: float = 0.5):
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share of RandomProjection must be more than 0 and at most 1, not {share:g}")
        self.share = share

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        signs, coefficients = torch.rand(2, *images.shape, device=images.device, generator=generator)
        signs = torch.where(signs < 0.5, -1.0, 1.0)
        vertical, horizontal = cosines(images, 2), cosines(images, 3)
        spectrum = vertical @ (signs * images) @ horizontal.T * (coefficients < self.share)
        return signs * (vertical.T @ spectrum @ horizontal)


def check_share(measurement: Measurement, name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name} of {type(measurement).__name__} must be at least 0 and less than 1, not {share:g}")


def cosines(images: Tensor, axis: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of one side of the images as a matrix."""
    n = torch.arange(images.shape[axis], device=images.device)
    waves = torch.cos(math.pi / len(n) * n[:, None] * (n + 0.5)) * math.sqrt(2 / len(n))
    waves[0] /= math.sqrt(2)
    return waves.to(images.dtype)


def blur_matrix(images: Tensor, axis: int, sigma: float) -> Tensor:
    """Gaussian blur along one side of the images as a matrix."""
    side, reach = images.shape[axis], math.ceil(4 * sigma)
    distances = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-(distances**2) / (2 * sigma**2), 0)
    places = (torch.arange(side, device=images.device)[:, None] + distances) % (2 * side)
    mirrored = torch.minimum(places, 2 * side - 1 - places)  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    return (functional.one_hot(mirrored, side) * kernel[:, None]).sum(1).to(images.dtype)
