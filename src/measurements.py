"""What a camera does to an image before anybody sees it: the data holds measurements, the generator makes images."""

from torch import Generator, Tensor, nn


class Measurement(nn.Module):
    """A random, differentiable measurement y = f(x) of images; AmbientGAN, Bora et al., ICLR 2018.

    The discriminator compares the measurements that the data holds with measured fakes, so the generator has to make
    images whose measurements look right.
    """

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] -> measurements [B, C, H, W].

        Args:
            images: of one batch, each of which gets a measurement of its own.
            generator: stream of the random numbers; PyTorch's own by default.
        """
        raise NotImplementedError
