"""Networks trained elsewhere, on square RGB images whose channels have a known mean and deviation."""

import re
import warnings
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from src.metrics.features import Extractor, match_channels
from src.metrics.resize import bicubic
from src.metrics.weights import asked_once, first_line, located, sha256, state_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pretrained(Extractor):
    """What these networks share: the whole image is stretched to their size (bicubic, antialiased), and normalized.

    Feature maps [B, d, h, w] are averaged over space, tokens [B, t, d] over all tokens, the class token among them.

    Args:
        input_size: height and width that the network takes, in pixels.
        mean: of each channel, subtracted after division by 255.
        std: of each channel, divided by afterwards.
    """

    def __init__(
        self, input_size: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.input_size, self.mean, self.std = input_size, mean, std
        self.resize = f"bicubic-antialias-{input_size}"

    def load(self) -> Extractor:
        if self.network is None:
            super().load()
            try:  # two images: a program exported for a fixed batch of one would fail at the second
                self.num_features = self(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape[1]
            except Exception as error:
                self.network = None
                raise ValueError(
                    f"{self.name} gives no features of images of {self.input_size}x{self.input_size} "
                    f"({first_line(error)}): correct `input_size`, or choose another layer or file"
                ) from error
        return self

    def features(self, images: Tensor) -> Tensor:
        x = bicubic(match_channels(images, 3).float(), self.input_size) / 255
        mean, std = x.new_tensor(self.mean).view(3, 1, 1), x.new_tensor(self.std).view(3, 1, 1)
        return pooled(self.network((x - mean) / std))

    def describe(self) -> dict[str, str | int]:
        mean, std = (" ".join(map(str, numbers)) for numbers in (self.mean, self.std))
        return super().describe() | {"normalization": f"mean {mean}, std {std}"}


def pooled(outputs: Tensor | dict[str, Tensor]) -> Tensor:
    """Feature maps [B, d, h, w], tokens [B, t, d] or vectors [B, d], alone or in a mapping, to vectors [B, d]."""
    if isinstance(outputs, dict) and len(outputs) == 1:
        (outputs,) = outputs.values()
    match getattr(outputs, "ndim", None):
        case 2:
            return outputs
        case 3:
            return outputs.mean(dim=1)
        case 4:
            return outputs.mean(dim=(2, 3))
    raise ValueError(f"the network returns {getattr(outputs, 'shape', type(outputs).__name__)}")


class TorchvisionModel(Pretrained):
    """Any classifier of torchvision, up to any of its layers.

    Args:
        model: its name, "resnet50" for instance; `torchvision.models.list_models()` has them all.
        weights: a name that torchvision knows ("DEFAULT", "IMAGENET1K_V1"), downloaded once into PyTorch's hub cache;
            or a file of weights in torchvision's layout, .pth or .safetensors.
        layer: node of `torchvision.models.feature_extraction.get_graph_node_names`, "layer3" for instance; none takes
            the input of the last linear layer, and the logits come with it.
        input_size: height and width that the network takes, in pixels.

    Raises:
        ValueError: no weights are given.
    """

    def __init__(self, model: str, weights: str | None = None, layer: str | None = None, input_size: int = 224) -> None:
        super().__init__(input_size)
        self.model, self.weights, self.layer = model, weights, layer
        self.name = model if layer is None else f"{model}-{layer}"
        if weights is None:
            raise ValueError(f'{model} without weights measures nothing: give `weights`, "DEFAULT" or a file')

    def build(self) -> nn.Module:
        try:
            network = self._network()
            if self.layer is None:
                network = without_head(network)
            else:
                from torchvision.models.feature_extraction import create_feature_extractor

                network = create_feature_extractor(network, [self.layer])
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"torchvision cannot build {self.name} with weights {self.weights} ({first_line(error)}): "
                "correct `model`, `weights` or `layer`"
            ) from error
        self.distance = f"fd-{self.name}-{self.weights_hash[:8]}"
        return network.to(memory_format=torch.channels_last)

    def _network(self) -> nn.Module:
        from torchvision import models

        known = models.get_model_weights(self.model).__members__
        if self.weights in known:
            url = known[self.weights].url
            _, self.weights_hash = located(None, url, re.search(r"-([0-9a-f]{8,})\.", url)[1])
            return models.get_model(self.model, weights=known[self.weights])  # finds the file in the cache
        if not Path(self.weights).suffix:
            raise ValueError(f"it knows the weights {', '.join(known)}")
        path, self.weights_hash = located(self.weights, "")
        # What torchvision's own weights of these two are made for, and set when it loads them itself.
        options = {"transform_input": True} if self.model in ("googlenet", "inception_v3") else {}
        network = models.get_model(self.model, weights=None, **options)
        network.load_state_dict(state_dict(path))
        return network

    def logits(self, features: Tensor) -> Tensor | None:
        return self.network.head_of_features(features) if self.layer is None else None


def without_head(network: nn.Module) -> nn.Module:
    """The network with its last linear layer set aside, as `head_of_features`."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("it has no linear layer: choose `layer`")
    head = network.get_submodule(linear[-1])
    network.set_submodule(linear[-1], nn.Identity())
    network.head_of_features = head
    return network


class DINOv2(Pretrained):
    """Class token of DINOv2: of the distances in use, the one that agrees best with people (arXiv:2306.04675).

    ViT-L/14 with its published weights is "fd-dinov2", the network and the resize of EDM2 and dgm-eval (whose Pillow
    rounds to grey levels between the two); any other model or file carries the model and the hash of the weights.

    Args:
        weights: file of weights, .pth or .safetensors; none takes the published ones of the model, downloaded once into
            PyTorch's hub cache.
        repo: the code: a GitHub repository that `torch.hub` fetches and runs, or a local clone of it.
        model: entry point of its hubconf.py, "dinov2_vits14" or "dinov2_vitl14_reg" for instance.
    """

    def __init__(
        self, weights: str | None = None, repo: str = "facebookresearch/dinov2", model: str = "dinov2_vitl14"
    ) -> None:
        super().__init__(input_size=224)
        self.weights, self.repo, self.model = weights, repo, model
        self.name = model

    def build(self) -> nn.Module:
        network = self._code()
        base = self.model.removesuffix("_reg")
        file = f"{base}_reg4" if base != self.model else base
        url = f"https://dl.fbaipublicfiles.com/dinov2/{base}/{file}_pretrain.pth"
        path, self.weights_hash = located(self.weights, url)
        try:
            network.load_state_dict(state_dict(path))
        except Exception as error:
            raise ValueError(
                f"{path} does not hold the weights of {self.model} ({first_line(error)}): fetch {url} again"
            ) from error
        published = self.weights is None and self.model == "dinov2_vitl14"
        self.distance = "fd-dinov2" if published else f"fd-{self.model}-{self.weights_hash[:8]}"
        return network

    def _code(self) -> nn.Module:
        local = Path(self.repo).expanduser()
        options = {"pretrained": False, "trust_repo": True, "skip_validation": True, "verbose": False}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "xFormers")
            if local.is_dir():
                try:
                    return torch.hub.load(str(local), self.model, source="local", **options)
                except Exception as error:
                    raise ValueError(
                        f"the code in {local} gives no {self.model} ({first_line(error)}): correct `repo` or `model`"
                    ) from error
            hub = Path(torch.hub.get_dir())
            what = f"cannot fetch {self.model} from {self.repo}, which is no folder here"
            remedy = f"clone https://github.com/{self.repo} by other means and give its folder as `repo`"
            with asked_once(hub / self.repo / self.model, what, remedy, Exception):
                hub.mkdir(parents=True, exist_ok=True)
                with FileLock(hub / "dinov2.lock"):  # processes start together, and it unpacks into one place
                    return torch.hub.load(self.repo, self.model, source="github", **options)


class Scripted(Pretrained):
    """A network in one file, TorchScript or torch.export: the image tower of CLIP for CMMD (arXiv:2401.09603).

    The file is a program and runs as one: take it from whom you trust. TorchScript is read without Python's pickle;
    torch.export (.pt2) may fall back on it. An exported program needs a dynamic batch size, runs on the kind of
    device it was exported on, and stays in the mode, train or eval, it was exported in.

    Args:
        path: the file; .pt2 is read by `torch.export.load`, any other by `torch.jit.load`.
        input_size: height and width that it takes, in pixels; 336 for CLIP ViT-L/14-336.
        mean: of the channels of its training images, 0 to 1; 0.48145466, 0.4578275, 0.40821073 for CLIP.
        std: likewise; 0.26862954, 0.26130258, 0.27577711 for CLIP.
        name: what the network is called, in the name of the distance too.
    """

    def __init__(self, path: str, input_size: int, mean: list[float], std: list[float], name: str) -> None:
        super().__init__(input_size, tuple(mean), tuple(std))
        self.path, self.name = path, name

    def build(self) -> nn.Module:
        path = Path(self.path).expanduser()
        self.weights_hash = sha256(path, option="path")
        self.distance = f"fd-{self.name}-{self.weights_hash[:8]}"
        try:
            if path.suffix == ".pt2":
                return _Exported(torch.export.load(path).module())
            return torch.jit.load(path, map_location="cpu")
        except Exception as error:
            raise ValueError(
                f"{path} holds neither TorchScript nor, as a .pt2, an exported program ({first_line(error)}): "
                "write it with torch.jit.save or torch.export.save"
            ) from error


class _Exported(nn.Module):
    """An exported program, which refuses `eval()`."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)

    def train(self, mode: bool = True) -> nn.Module:
        return self
