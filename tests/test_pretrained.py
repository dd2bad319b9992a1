"""Networks trained elsewhere, here with random weights in files of their formats."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision import models

from src.metrics.features import Extractor
from src.metrics.lpips import BACKBONES, LPIPS
from src.metrics.pretrained import IMAGENET_MEAN, IMAGENET_STD, DINOv2, Scripted, TorchvisionModel, pooled
from src.metrics.weights import MissingWeights

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SMALL = "shufflenet_v2_x0_5"


def images(count=3, size=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def normalized(images, size, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    x = F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def hash8(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def one_line(error, message, extractor):
    with pytest.raises(error, match=message) as caught:
        extractor().load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """PyTorch's hub cache, empty, without a network to fill it."""

    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def shufflenet(tmp_path_factory):
    """A small network of torchvision, and its weights in both formats."""
    torch.manual_seed(0)
    network = models.get_model(SMALL, weights=None).eval()
    folder = tmp_path_factory.mktemp("shufflenet")
    torch.save(network.state_dict(), folder / "small.pth")
    save_file(network.state_dict(), folder / "small.safetensors")
    return network, folder


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@torch.no_grad()
def test_torchvision_gives_the_input_of_its_last_layer(suffix, shufflenet):
    network, folder = shufflenet
    path = folder / f"small.{suffix}"
    extractor = TorchvisionModel(SMALL, str(path), input_size=64)
    features, logits = extractor.both(images())
    x = normalized(images(), 64)
    torch.testing.assert_close(logits, network(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.fc(features), network(x), rtol=1e-4, atol=1e-4)
    assert extractor.distance == f"fd-{SMALL}-{hash8(path)}"
    described = extractor.describe()
    assert described.pop("weights_hash").startswith(hash8(path))
    assert described == {
        "name": SMALL,
        "resize": "bicubic-antialias-64",
        "num_features": 1024,
        "normalization": "mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
    }


@torch.no_grad()
def test_torchvision_gives_the_mean_of_any_layer(shufflenet):
    network, folder = shufflenet
    extractor = TorchvisionModel(SMALL, str(folder / "small.pth"), layer="stage2", input_size=64)
    features, logits = extractor.both(images())
    expected = network.stage2(network.maxpool(network.conv1(normalized(images(), 64)))).mean(dim=(2, 3))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert logits is None and extractor.num_features == 48
    assert extractor.distance == f"fd-{SMALL}-stage2-{hash8(folder / 'small.pth')}"


def test_torchvision_takes_published_weights_from_the_cache(shufflenet, hub, monkeypatch, capsys):
    _, folder = shufflenet
    message = one_line(FileNotFoundError, "download", lambda: TorchvisionModel(SMALL, "DEFAULT"))
    url = models.get_model_weights(SMALL).DEFAULT.url
    place = hub / "checkpoints" / url.split("/")[-1]
    assert f"fetch {url}" in message and f"put it at {place}" in message
    assert capsys.readouterr().err == f"downloading {url} to {place}\n"  # before it is tried
    place.write_bytes((folder / "small.pth").read_bytes())
    one_line(ValueError, "SHA-256", lambda: TorchvisionModel(SMALL, "DEFAULT"))
    monkeypatch.setattr("src.metrics.weights.sha256", lambda _: "f707e7126e" + "0" * 54)  # as the published file has
    extractor = TorchvisionModel(SMALL, "DEFAULT", input_size=64).load()
    assert extractor.distance == f"fd-{SMALL}-f707e712"
    assert extractor(images()).equal(TorchvisionModel(SMALL, str(folder / "small.pth"), input_size=64)(images()))
    assert "downloading" not in capsys.readouterr().err


def test_torchvision_refuses_in_one_line(shufflenet):
    path = str(shufflenet[1] / "small.pth")
    one_line(ValueError, "without weights", lambda: TorchvisionModel(SMALL))
    one_line(ValueError, "IMAGENET1K_V1, DEFAULT", lambda: TorchvisionModel(SMALL, "IMAGENET"))
    one_line(FileNotFoundError, "none.pth", lambda: TorchvisionModel(SMALL, "none.pth"))
    one_line(ValueError, "resnet1", lambda: TorchvisionModel("resnet1", path))
    one_line(ValueError, "stage9", lambda: TorchvisionModel(SMALL, path, layer="stage9"))
    one_line(ValueError, "small.pth", lambda: TorchvisionModel("squeezenet1_1", path))


def test_a_network_without_linear_layer_needs_a_layer(tmp_path):
    path = tmp_path / "squeeze.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    one_line(ValueError, "linear layer.*`layer`", lambda: TorchvisionModel("squeezenet1_1", str(path)))
    assert TorchvisionModel("squeezenet1_1", str(path), layer="features", input_size=64).load().num_features == 512


def test_tokens_and_maps_are_averaged():
    x = torch.randn(2, 3, 4, 5)
    assert pooled(x).equal(x.mean(dim=(2, 3)))
    assert pooled(x[..., 0]).equal(x[..., 0].mean(dim=1))
    assert pooled({"features": x[..., 0, 0]}).equal(x[..., 0, 0])
    for outputs in (x[0, 0, 0], (x, x), {"a": x, "b": x}):
        with pytest.raises(ValueError, match="returns"):
            pooled(outputs)


HUBCONF = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 14, stride=14)

    def forward(self, x):
        assert x.shape[2:] == (224, 224)
        return self.patches(x).amax(dim=(2, 3))


def dinov2_vitl14(pretrained=True):
    assert not pretrained, "the weights come from a file"
    return Tiny()


dinov2_vits14_reg = dinov2_vitl14
"""


@pytest.fixture
def clone(tmp_path):
    """A clone of DINOv2's repository with a tiny network, and a file of its weights."""
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "hubconf.py").write_text(HUBCONF)
    patches = nn.Conv2d(3, 6, 14, stride=14)
    torch.save({f"patches.{key}": value for key, value in patches.state_dict().items()}, tmp_path / "tiny.pth")
    return tmp_path / "clone", tmp_path / "tiny.pth", patches


@torch.no_grad()
def test_dinov2_is_named_after_its_weights(clone, hub):
    repo, path, patches = clone
    expected = patches(normalized(images(), 224)).amax(dim=(2, 3))
    extractor = DINOv2(str(path), str(repo))
    torch.testing.assert_close(extractor(images()), expected, rtol=1e-4, atol=1e-4)
    assert extractor.distance == f"fd-dinov2_vitl14-{hash8(path)}"
    assert (extractor.num_features, extractor.resize) == (6, "bicubic-antialias-224")
    assert extractor.both(images())[1] is None
    (hub / "checkpoints" / "dinov2_vitl14_pretrain.pth").write_bytes(path.read_bytes())
    published = DINOv2(repo=str(repo)).load()
    assert published.distance == "fd-dinov2" and published.weights_hash == extractor.weights_hash


def test_dinov2_refuses_in_one_line(clone, hub, monkeypatch):
    repo, path, _ = clone
    message = one_line(FileNotFoundError, "download", lambda: DINOv2(repo=str(repo), model="dinov2_vits14_reg"))
    assert "/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth" in message and f"put it at {hub}/checkpoints" in message
    one_line(ValueError, "dinov2_none", lambda: DINOv2(str(path), str(repo), "dinov2_none"))
    path.write_bytes(b"not weights")
    one_line(ValueError, "tiny.pth", lambda: DINOv2(str(path), str(repo)))

    def offline(repo, model, source, pretrained, trust_repo, skip_validation, verbose):
        assert source == "github" and not pretrained
        raise RuntimeError("It looks like there is no internet connection\nand so on")

    monkeypatch.setattr(torch.hub, "load", offline)
    message = one_line(FileNotFoundError, "no internet", lambda: DINOv2(str(path)))
    assert "clone https://github.com/facebookresearch/dinov2" in message and "`repo`" in message


class Tower(nn.Module):
    """Stands for the image tower of CLIP."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, stride=8)
        self.dropout = nn.Dropout()

    def forward(self, x):
        return self.dropout(self.patches(x)).mean(dim=(2, 3))


def exported(tower, path, dynamic=True):
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    torch.export.save(torch.export.export(tower, (torch.randn(3, 3, 32, 32),), dynamic_shapes=shapes), path)


@pytest.mark.parametrize("suffix", ["pt", "pt2"])
@torch.no_grad()
def test_a_network_in_one_file(suffix, tmp_path):
    tower, path = Tower().eval(), tmp_path / f"tower.{suffix}"
    exported(tower, path) if suffix == "pt2" else torch.jit.script(tower.train()).save(path)
    extractor = Scripted(str(path), 32, CLIP_MEAN, CLIP_STD, name="clip")
    expected = tower.eval()(normalized(images(20), 32, CLIP_MEAN, CLIP_STD))  # 20: a batch of 16 and one of 4
    torch.testing.assert_close(extractor.to("cpu")(images(20)), expected, rtol=1e-4, atol=1e-4)
    assert extractor.distance == f"fd-clip-{hash8(path)}"
    assert extractor.num_features == 6 and "0.48145466" in extractor.describe()["normalization"]


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path):
    def scripted(name, size=32):
        return lambda: Scripted(str(tmp_path / name), size, CLIP_MEAN, CLIP_STD, name="clip")

    one_line(FileNotFoundError, "none.pt.*`path`", scripted("none.pt"))
    for name in ("corrupt.pt", "corrupt.pt2"):
        (tmp_path / name).write_bytes(b"no program")
        one_line(ValueError, "corrupt", scripted(name))
    exported(Tower().eval(), tmp_path / "fixed.pt2", dynamic=False)
    one_line(ValueError, "clip gives no features", scripted("fixed.pt2"))
    torch.jit.script(Tower()).save(tmp_path / "tower.pt")
    one_line(ValueError, "4x4.*`input_size`", scripted("tower.pt", size=4))


@pytest.mark.parametrize("kind", ["torchvision", "dinov2", "scripted", "exported"])
@pytest.mark.filterwarnings("ignore")
def test_an_arbitrary_pickle_is_not_executed(kind, tmp_path, clone):
    class Payload:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    path = tmp_path / ("payload.pt2" if kind == "exported" else "payload.pth")
    torch.save(Payload(), path)
    extractor = {
        "torchvision": lambda: TorchvisionModel(SMALL, str(path)),
        "dinov2": lambda: DINOv2(str(path), str(clone[0])),
        "scripted": lambda: Scripted(str(path), 32, CLIP_MEAN, CLIP_STD, "clip"),
        "exported": lambda: Scripted(str(path), 32, CLIP_MEAN, CLIP_STD, "clip"),
    }[kind]
    one_line(ValueError, "payload", extractor)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"class_path": "src.metrics.features.Inception", "init_args": {"resize": "clean"}},
        {"class_path": "src.metrics.pretrained.TorchvisionModel", "init_args": {"model": SMALL, "weights": "DEFAULT"}},
        {"class_path": "src.metrics.pretrained.DINOv2", "init_args": {"model": "dinov2_vits14"}},
        {
            "class_path": "src.metrics.pretrained.Scripted",
            "init_args": {"path": "clip.pt", "input_size": 336, "mean": CLIP_MEAN, "std": CLIP_STD, "name": "clip"},
        },
    ],
    ids=lambda options: options["class_path"].split(".")[-1],
)
def test_a_line_of_yaml_makes_it_without_touching_a_file(options):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Extractor, "extractor")
    extractor = parser.instantiate_classes(parser.parse_object({"extractor": options})).extractor
    assert extractor.network is None and type(extractor).__name__ == options["class_path"].split(".")[-1]


def test_weights_in_a_file_see_the_input_that_they_were_made_for(tmp_path):
    network = models.googlenet(weights=None, init_weights=False, transform_input=True)
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    extractor = TorchvisionModel("googlenet", str(tmp_path / "googlenet.pth"), input_size=64)
    x = normalized(images(), 64)
    network.fc = torch.nn.Identity()
    torch.testing.assert_close(extractor(images()), network.eval()(x), rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module", params=BACKBONES)
def perceptual(request, tmp_path_factory):
    """LPIPS of torchmetrics on a network of random weights, and the file of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "reset_parameters", lambda self: None)  # of layers that are not used, and large
        patch.setattr(nn.init, "normal_", lambda weight, *_: weight)
        reference = _LPIPS(net=BACKBONES[request.param][0], pnet_rand=True)
    path = tmp_path_factory.mktemp("lpips") / "weights.pth"
    parts = reference.net.state_dict()
    torch.save({f"features.{name.partition('.')[2]}": part for name, part in parts.items()}, path)
    return request.param, reference, path


def publish(path, name, folder, monkeypatch):
    """Lets a file stand for the published one of a network of torchvision."""
    weights = {each: f"https://weights.org/{each}-{hash8(path)}.pth" for each in BACKBONES}
    known = {each: SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=url)) for each, url in weights.items()}
    monkeypatch.setattr("src.metrics.lpips.models.get_model_weights", known.get)
    place = folder / "checkpoints" / f"{name}-{hash8(path)}.pth"
    place.hardlink_to(path)
    return place


def test_squared_distances_of_lpips_are_those_of_torchmetrics(perceptual, hub, monkeypatch):
    name, reference, path = perceptual
    publish(path, name, hub, monkeypatch)
    network = LPIPS()
    assert network.name == name
    first, second = (torch.rand(2, 3, 70, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (0, 1))
    first.requires_grad_(True)
    distance = (network(first) - network(second)).square().sum(1)
    expected = reference(first, second).flatten()
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(d.sum(), first)[0] for d in (distance, expected)), atol=1e-6, rtol=1e-3
    )
    small, alike = (
        torch.nn.functional.interpolate(x[:, :, :64], scale_factor=1 / 8, mode="area").detach() for x in (first, second)
    )
    large = (F.interpolate(x, 64, mode="bilinear") for x in (small, alike))
    torch.testing.assert_close((network(small) - network(alike)).square().sum(1), reference(*large).flatten())
    assert network(torch.zeros(1, 1, 8, 8)).shape == network(small[:1]).shape


def test_lpips_is_refused_without_the_published_weights(hub, tmp_path, monkeypatch):
    with pytest.raises(MissingWeights, match="fetch https://.*vgg16-.* or https://.*alexnet-.*put it there") as caught:
        LPIPS()
    assert str(hub / "checkpoints") in str(caught.value)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    path = publish(tmp_path / "other.pth", "alexnet", hub, monkeypatch)
    with pytest.raises(ValueError, match="does not hold alexnet .*: fetch it again"):
        LPIPS()
    path.unlink()
    path.write_bytes(b"cut short")
    with pytest.raises(ValueError, match="is not the file of"):
        LPIPS()
