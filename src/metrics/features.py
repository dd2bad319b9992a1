"""What turns images into the features that a distance is measured on."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from src.engine.descriptions import Part
from src.images.pixels import from_uint8
from src.metrics import classifier
from src.metrics.resize import bicubic, tf1_bilinear
from src.metrics.weights import first_line, located, sha256


class Extractor(Part, ABC):
    """Images to features, in exact float32 whatever the precision of the run.

    A plain object rather than a module, so that no network of a metric lands in a checkpoint or in `parameters()`.
    Constructing one is free: the weights are read by `load`, which the first call does by itself. A subclass
    implements `build`, which returns the network and sets the attributes below, and `features`; where the network is a
    classifier, `logits` too.

    Attributes:
        name: what the network is.
        distance: what a Frechet distance on these features is called. Only published weights have a name of their
            own ("fid", "clean-fid", "fd-dinov2"); every other carries the first 8 digits of the weights' hash.
        num_features: length of one feature vector.
        resize: how images are brought to the input size of the network.
        weights_hash: SHA-256 of the weights file, in hexadecimal.
    """

    name: str
    distance: str
    num_features: int
    resize: str
    weights_hash: str

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.network: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """Reads the weights and sets the attributes of the class."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to float32 [B, num_features]; runs inside `exact_float32` on batches of bounded size."""

    def logits(self, features: Tensor) -> Tensor | None:
        """Class logits [B, K] from the features [B, num_features]; None where the network has no classes."""
        return None

    @property
    def classifies(self) -> bool:
        """Whether the network has classes; known after `load`."""
        with torch.inference_mode():
            return self.logits(torch.zeros(1, self.num_features, device=self.device)) is not None

    @torch.inference_mode(False)  # a network built in Lightning's validation must still be movable after it
    def load(self) -> "Extractor":
        """Builds the network if that has not happened yet.

        Raises:
            FileNotFoundError: the weights are missing.
            ValueError: the weights are not those of this network.
        """
        if self.network is None:
            with exact_float32(self.device):
                self.network = self.build().float().eval().to(self.device)
            for parameter in self.network.parameters():  # TorchScript has no `requires_grad_` of the whole
                parameter.requires_grad_(False)
        return self

    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> "Extractor":
        """Moves the network, now or when it is built."""
        self.device = torch.device(device)
        if self.network is not None:
            self.network.to(self.device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            images: uint8 [B, C, H, W], 0 to 255.

        Returns:
            float32 [B, num_features], on the extractor's device.
        """
        self.load()
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"{self.name}: expected uint8 images [B, C, H, W], got {images.dtype} {list(images.shape)}; "
                "src.images.pixels.to_uint8 converts from [-1, 1]"
            )
        # On a CPU small batches stay in the cache: 1.3 times the speed of 64. On a GPU the limit is memory.
        size = 16 if self.device.type == "cpu" else 128
        with torch.inference_mode(), exact_float32(self.device):
            return torch.cat([self.features(batch) for batch in images.to(self.device).split(size)])

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and class logits of a batch, in one pass through the network.

        Args:
            images: uint8 [B, C, H, W], 0 to 255.

        Returns:
            Features float32 [B, num_features], and logits float32 [B, K] or None, on the extractor's device.
        """
        features = self(images)
        with torch.inference_mode(), exact_float32(self.device):
            return features, self.logits(features)

    def describe(self) -> dict[str, str | int]:
        """What a reader must know to compare two results."""
        self.load()
        return {key: getattr(self, key) for key in ("name", "weights_hash", "resize", "num_features")}


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 or bfloat16 inside float32 arithmetic, float32 as default; all restored afterwards.

    Features under bfloat16 autocast give a distance of 2.7 between a set of images and itself. Lightning enters
    autocast around validation and test ("bf16-mixed"), or changes the default type ("bf16-true").
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    backends += (torch.backends.cudnn.conv, torch.backends.mkldnn.conv)
    saved = [backend.fp32_precision for backend in backends]
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch refuses to read it where its old and its new setting were both used
        matmul = "high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"
    default_dtype = torch.get_default_dtype()
    try:
        torch.set_float32_matmul_precision("highest")  # the old setting too: kernels and profiler raise if they differ
        for backend in backends:
            backend.fp32_precision = "ieee"
        torch.set_default_dtype(torch.float32)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default_dtype)
        torch.set_float32_matmul_precision(matmul)
        for backend, precision in zip(backends, saved, strict=True):
            backend.fp32_precision = precision


def match_channels(images: Tensor, channels: int) -> Tensor:
    """Images with the channels that a network expects.

    Grey becomes RGB by repetition, RGB becomes grey by the mean, and RGBA is laid on mid grey: on black or on white,
    icons of that colour would all be alike.

    Args:
        images: grey levels 0 to 255, uint8 or float [B, C, H, W] with 1, 3 or 4 channels, or already `channels`.
        channels: what the network takes.
    """
    found = images.shape[1]
    if found == channels:
        return images
    if found == 4 and channels in (1, 3):
        color, alpha = images.float().split((3, 1), 1)
        laid = 127.5 + (color - 127.5) * (alpha / 255)
        return match_channels(laid if images.is_floating_point() else laid.round().to(torch.uint8), channels)
    if (found, channels) == (1, 3):
        return images.expand(-1, 3, -1, -1)
    if (found, channels) == (3, 1):
        return images.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
    raise ValueError(
        f"images of {found} channels do not fit an extractor of {channels}: use src.metrics.features.Classifier with "
        "weights trained on such images"
    )


class Inception(Extractor):
    """Inception-v3 of the original FID: its 2048 pooled features (arXiv:1706.08500).

    The network is torch-fidelity's conversion of the TensorFlow graph. Its logits have 1008 classes and no bias, as in
    the original Inception Score. With `resize: tf1` the distance agrees with torch-fidelity's, with `resize: clean`
    with clean-fid's, where it is called "clean-fid".

    Args:
        weights: weights file, in the format of torch-fidelity. By default torch-fidelity's own file, downloaded once
            into PyTorch's hub cache. Another file than that works, but the distance is then not called "fid".
        resize: how images come to 299x299. "tf1" is bilinear without antialiasing, as the FID was defined; "clean" is
            bicubic with antialiasing, on float grey levels (arXiv:2104.11222).
    """

    name = "inception"
    num_features = 2048

    ORIGINAL = "6726825d"  # the SHA-256 of the 2015-12-05 weights starts so
    SIZE = 299

    def __init__(self, weights: str | None = None, resize: Literal["tf1", "clean"] = "tf1") -> None:
        super().__init__()
        self.weights = weights
        clean = resize == "clean"
        self.prefix = "clean-" if clean else ""
        self.resize = f"clean-bicubic-{self.SIZE}" if clean else f"tf1-bilinear-{self.SIZE}"
        self.resized = bicubic if clean else tf1_bilinear

    def build(self) -> nn.Module:
        # Imported here because it takes seconds, and no other metric needs it.
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        path, self.weights_hash = located(self.weights, URL_INCEPTION_V3, self.ORIGINAL)
        original = self.weights_hash.startswith(self.ORIGINAL)
        self.distance = f"{self.prefix}fid" if original else f"fd-{self.prefix}inception-{self.weights_hash[:8]}"
        try:
            if not original:
                torch.load(path, weights_only=True)  # torch-fidelity unpickles without this guard
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
        except Exception as error:
            raise ValueError(
                f"{path} does not hold torch-fidelity's Inception weights ({first_line(error)}): "
                "fetch it again, or leave out `weights`"
            ) from error
        for module in network.modules():
            if hasattr(module, "bn"):
                module.conv, module.bn = folded(module.conv, module.bn), nn.Identity()
        # Its layers are registered in the order in which they act; its own `forward` would resize once more.
        layers = nn.Sequential(OrderedDict(network.named_children()))
        return layers.to(memory_format=torch.channels_last)  # 1.5 times the speed on a CPU, the same features

    def features(self, images: Tensor) -> Tensor:
        x = self.resized(match_channels(images, 3).float(), self.SIZE)
        return self.network[:-1]((x - 128) / 128).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.network.fc.weight.T


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution in place of a convolution and the batch normalization after it, folded in float64."""
    return fuse_conv_bn_eval(conv.double().eval(), bn.double().eval()).float()


class Classifier(Extractor):
    """Penultimate layer of a small classifier: a distance for small images, or where nothing can be downloaded.

    Such a distance ("Frechet classifier distance") is comparable with no other than those on the same weights.

    Args:
        weights: a file that `python -m src.metrics.classifier` wrote; it records the size and channels of the images.
            Two are shipped: "digits", trained on the 8x8 digits, the default; and "mnist", on digits of 28x28.
    """

    SHIPPED = {name: Path(__file__).with_name(f"{name}.safetensors") for name in ("digits", "mnist")}

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.weights = weights

    def build(self) -> nn.Module:
        weights = self.weights or "digits"
        path = self.SHIPPED.get(weights, Path(weights).expanduser())
        self.weights_hash = sha256(path)
        try:
            network, facts = classifier.load(path)
        except Exception as error:
            raise ValueError(
                f"{path} does not hold a classifier ({first_line(error)}): "
                f"write it again with `python -m src.metrics.classifier --output {path}`"
            ) from error
        self.name = facts["name"]
        self.distance = f"fcd-{self.name}-{self.weights_hash[:8]}"
        self.num_features = network.num_features
        self.resize = f"bilinear-antialias-{network.image_size}"
        return network

    def features(self, images: Tensor) -> Tensor:
        x = from_uint8(match_channels(images, self.network.channels))
        size = (self.network.image_size, self.network.image_size)
        if x.shape[2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        return self.network.features(x)

    def logits(self, features: Tensor) -> Tensor:
        return self.network.head(features)
