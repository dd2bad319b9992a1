"""LPIPS, how unlike two images look to people (Zhang et al., arXiv:1801.03924)."""

from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from src.metrics.features import match_channels
from src.metrics.pretrained import IMAGENET_MEAN, IMAGENET_STD
from src.metrics.weights import MissingWeights, first_line, located, state_dict

# Networks of torchvision, best first: how torchmetrics calls their heads, and the ReLUs after which images are compared
BACKBONES = {"vgg16": ("vgg", (3, 8, 15, 22, 29)), "alexnet": ("alex", (1, 4, 7, 9, 11))}
LEAST, MOST = 64, 256  # pixels of the shorter side: of the patches that people compared; as StyleGAN2 projects


class LPIPS(nn.Module):
    """Numbers of an image whose squared distance to those of another is LPIPS.

    The weights of its heads come with torchmetrics. Those of the network are ImageNet's, and must be in PyTorch's hub
    cache: nothing is downloaded.

    Raises:
        MissingWeights: they are not there.
        ValueError: what is there is not what was published.
    """

    def __init__(self):
        super().__init__()
        self.name, path = at_hand()
        kind, compared = BACKBONES[self.name]
        heads = files("torchmetrics.functional.image") / "lpips_models" / f"{kind}.pth"
        weights = [head.flatten() for head in state_dict(Path(str(heads))).values()]
        with torch.device("meta"):
            self.layers = models.get_model(self.name).features
        try:
            parts = {name.removeprefix("features."): part for name, part in state_dict(path).items()}
            self.layers.load_state_dict({name: parts[name] for name in self.layers.state_dict()}, assign=True)
        except Exception as error:
            raise ValueError(f"{path} does not hold {self.name} ({first_line(error)}): fetch it again") from error
        self.heads = nn.ParameterDict({str(place): head for place, head in zip(compared, weights, strict=True)})
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] -> [B, D], D by their size; small ones are enlarged, large ones reduced."""
        x = match_channels((images + 1) * 127.5, 3) / 255
        side = min(x.shape[2:])
        if not LEAST <= side <= MOST:
            size = [round(pixels * min(max(side, LEAST), MOST) / side) for pixels in x.shape[2:]]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        x = (x - x.new_tensor(IMAGENET_MEAN).view(3, 1, 1)) / x.new_tensor(IMAGENET_STD).view(3, 1, 1)
        found = []
        for place, layer in self.layers.named_children():
            x = layer(x)
            if place in self.heads:  # Eq. 1: a weighted square of the difference of directions, averaged over space
                direction = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
                weight = self.heads[place][:, None, None] / (x.shape[2] * x.shape[3])
                found.append((direction * weight.sqrt()).flatten(1))
        return torch.cat(found, 1)


def at_hand() -> tuple[str, Path]:
    """The best network whose published weights are in PyTorch's hub cache, and its file.

    Raises:
        MissingWeights: there is none.
        ValueError: the file is another.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    urls = {name: models.get_model_weights(name).IMAGENET1K_V1.url for name in BACKBONES}
    for name, url in urls.items():
        if (folder / Path(url).name).is_file():
            return name, located(None, url, Path(url).stem.rpartition("-")[2])[0]
    raise MissingWeights(f"LPIPS finds no weights in {folder}: fetch {' or '.join(urls.values())} and put it there")
