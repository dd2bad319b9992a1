import hashlib
import json
import socket
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from src.data.digits import Digits
from src.data.mnist import SmallMNIST
from src.metrics import classifier
from src.metrics.features import Classifier, Extractor, Inception, exact_float32, folded, match_channels
from src.metrics.resize import bicubic, tf1_bilinear
from src.metrics.weights import MissingWeights, located


def digits(split="test"):
    images, labels = Digits().load(split)
    return torch.from_numpy(images), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in torch-fidelity's format, scaled so that the features are neither tiny nor huge."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            pass

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    network = Unloaded("random", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (("weight", 0.8, 1.2), ("bias", -0.2, 0.2)):
                getattr(module, tensor).data.uniform_(low, high, generator=generator)
            for tensor, low, high in (("running_var", 0.8, 1.2), ("running_mean", -0.2, 0.2)):
                getattr(module, tensor).uniform_(low, high, generator=generator)
    path = folder / "random.pth"
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()


class Probe(Extractor):
    """Records the settings under which an extractor computes, and multiplies matrices."""

    name, distance, num_features, resize, weights_hash = "probe", "fd-probe", 8, "none", "0" * 64

    def build(self):
        self.settings = []
        return nn.Linear(64, 8)

    def features(self, images):
        self.settings.append((precisions(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype()))
        return self.network(images.flatten(1).float())


def precisions():
    backends = torch.backends
    modules = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [module.fp32_precision for module in modules]


def legacy():
    return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [True, False])
def test_precision_is_exact_inside_and_restored_after(precision, cudnn):
    before = legacy()
    try:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.set_default_dtype(torch.bfloat16)
        chosen = legacy(), precisions()
        probe = Probe()
        with torch.autocast("cpu", torch.bfloat16):
            features = probe(digits()[0][:20])
            assert torch.is_autocast_enabled("cpu")
        assert probe.settings == [(["ieee"] * 4, False, torch.float32)] * 2  # batches of 16 on a CPU
        assert features.dtype == torch.float32 and probe.network.weight.dtype == torch.float32
        assert torch.get_default_dtype() == torch.bfloat16
        assert (legacy(), precisions()) == chosen
        with pytest.raises(KeyError), exact_float32(torch.device("cpu")):
            raise KeyError
        assert (legacy(), precisions()) == chosen
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[2]


@pytest.mark.parametrize("extractor", ["classifier", "inception"])
def test_features_under_bfloat16_autocast_are_the_same(extractor, inception_file):
    images = digits()[0][:4]
    extractor = Classifier() if extractor == "classifier" else Inception(str(inception_file))
    expected = extractor(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert extractor(images).equal(expected)
    assert expected.dtype == torch.float32 and not expected.requires_grad


@pytest.fixture(scope="module")
def reference(inception_file):
    """torch-fidelity's own network, with its own resize."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    outputs = ["2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3("reference", outputs, feature_extractor_weights_path=str(inception_file))


def random_images(count, *size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def pillow_bicubic(images, size):
    """clean-fid's resize: each channel as a float image through Pillow."""
    rows = []
    for channel in images.flatten(0, 1).numpy().astype(np.float32):
        rows.append(np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC)).clip(0, 255))
    return torch.from_numpy(np.stack(rows)).view(*images.shape[:2], size, size)


def close(actual, expected, relative):
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * expected.abs().max().item())


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (23, 40), (299, 299), (400, 200), (200, 700), (800, 640)])
def test_tf1_resize_is_that_of_torch_fidelity(size):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = random_images(2, *size).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(x.clone(), (299, 299), align_corners=False)
    torch.testing.assert_close(tf1_bilinear(x, 299), expected, rtol=0, atol=1e-4 if size[0] > 299 else 0)
    assert x.equal(random_images(2, *size).float())


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (23, 40), (299, 299), (512, 400)])
def test_clean_resize_is_that_of_pillow_on_floats(size):
    images = random_images(2, *size)
    result = bicubic(images.float(), 299)
    torch.testing.assert_close(result, pillow_bicubic(images, 299), rtol=0, atol=1e-4)
    assert (result.min(), result.max()) == (0, 255)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (23, 40), (299, 299), (512, 400)])
def test_clean_resize_is_that_of_clean_fid(size):
    make_resizer = pytest.importorskip("cleanfid.resize").make_resizer
    images = random_images(2, *size)
    resize = make_resizer("PIL", False, "bicubic", (299, 299))
    expected = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images])
    result = bicubic(images.float(), 299).permute(0, 2, 3, 1)
    torch.testing.assert_close(result, torch.from_numpy(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (320, 320), (20, 50)])
def test_inception_gives_the_features_and_logits_of_torch_fidelity(size, inception_file, reference):
    images = random_images(3, *size)
    features, logits = Inception(str(inception_file)).both(images)
    expected, expected_logits = reference(images)
    close(features, expected, 1e-5)
    close(logits, expected_logits, 1e-5)
    assert logits.shape == (3, 1008) and features.dtype == logits.dtype == torch.float32


def frechet(real, fake):
    """Frechet distance from features: tr sqrt(S1 S2) is the nuclear norm of X1 X2', without a d x d matrix."""
    (x1, m1), (x2, m2) = (
        ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5, x.mean(dim=0)) for x in (real.double(), fake.double())
    )
    return (m1 - m2).square().sum() + x1.square().sum() + x2.square().sum() - 2 * torch.linalg.svdvals(x1 @ x2.T).sum()


@pytest.mark.parametrize("resize", ["tf1", "clean"])
def test_the_distance_is_that_of_torch_fidelity_and_of_clean_fid(resize, inception_file, reference):
    sets = []
    for seed in (0, 1):  # of sizes that are enlarged and reduced; the second set brighter
        images = [random_images(4, size, size, seed=seed) // 2 + 60 * seed for size in (32, 400)]
        if resize == "tf1":
            expected = [reference(part)[0] for part in images]
        else:
            layers = nn.Sequential(*list(reference.children())[:-1])
            expected = [layers((pillow_bicubic(part, 299) - 128) / 128).flatten(1) for part in images]
        extractor = Inception(str(inception_file), resize)
        sets.append((torch.cat([extractor(part) for part in images]), torch.cat(expected)))
    (real, expected_real), (fake, expected_fake) = sets
    assert frechet(real, fake).item() == pytest.approx(frechet(expected_real, expected_fake).item(), rel=1e-5)


def test_folding_batch_norm_changes_rounding_alone():
    generator = torch.Generator().manual_seed(0)
    conv, bn = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=0.001)
    for tensor in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
        tensor.uniform_(0.5, 2, generator=generator)
    x = torch.randn(2, 3, 9, 9, generator=generator)
    expected = bn.eval()(conv(x))
    fused = folded(conv, bn)
    assert fused.weight.dtype == torch.float32
    torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-5)


def test_only_networks_with_classes_have_logits():
    images = digits()[0][:5]
    extractor = Classifier()
    features, logits = extractor.both(images)
    assert features.equal(extractor(images)) and logits.shape == (5, 10)
    torch.testing.assert_close(logits, extractor.network(images / 127.5 - 1), rtol=0, atol=1e-5)
    features, logits = Probe().both(images)
    assert features.shape == (5, 8) and logits is None


def test_inception_with_other_weights_is_not_called_fid(inception_file):
    extractor = Inception(str(inception_file)).load()
    file_hash = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert extractor.distance == f"fd-inception-{file_hash[:8]}"
    assert extractor.describe() == {
        "name": "inception",
        "weights_hash": file_hash,
        "resize": "tf1-bilinear-299",
        "num_features": 2048,
    }


def test_only_the_original_weights_are_called_fid(inception_file, monkeypatch):
    file_hash = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    clean = Inception(str(inception_file), "clean").load()
    assert (clean.distance, clean.resize) == (f"fd-clean-inception-{file_hash[:8]}", "clean-bicubic-299")
    monkeypatch.setattr(Inception, "ORIGINAL", file_hash[:8])
    assert Inception(str(inception_file)).load().distance == "fid"
    assert Inception(str(inception_file), "clean").load().distance == "clean-fid"


def test_grey_is_repeated_and_opaque_is_without_alpha(inception_file):
    extractor = Inception(str(inception_file))
    grey = digits()[0][:2]
    expected = extractor(grey.repeat(1, 3, 1, 1))
    assert extractor(grey).equal(expected)
    assert extractor(torch.cat([grey.repeat(1, 3, 1, 1), torch.full_like(grey, 255)], dim=1)).equal(expected)
    with pytest.raises(ValueError, match="5 channels"):
        extractor(grey.repeat(1, 5, 1, 1))


def test_rgb_becomes_grey_by_the_mean():
    images = torch.tensor([10, 20, 60, 255], dtype=torch.uint8).view(1, 4, 1, 1)
    assert match_channels(images, 1).item() == match_channels(images[:, :3], 1).item() == 30


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_shapes_are_seen_where_only_alpha_tells_them(level):
    images = torch.full((2, 4, 8, 8), level, dtype=torch.uint8)
    images[:, 3] = 0
    images[0, 3, :4], images[1, 3, :, :4] = 255, 255
    laid = match_channels(images, 3)
    assert laid.dtype == torch.uint8 and laid.unique().tolist() == sorted([level, 128])
    assert (match_channels(images.double(), 3) - laid).abs().max() <= 0.5
    features = Classifier()(images)
    assert (features[0] - features[1]).norm() > 0.1 * features[0].norm()


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)])
def test_only_batches_of_uint8_are_accepted(images):
    with pytest.raises(ValueError, match="uint8"):
        Classifier()(images)


def test_constructing_touches_no_file():
    Inception("nowhere.pth")
    Classifier("nowhere.safetensors")


@pytest.mark.parametrize("extractor", [Inception, Classifier])
def test_missing_and_corrupt_weights_say_so_in_one_line(extractor, tmp_path):
    for name, error in (("missing", FileNotFoundError), ("corrupt", ValueError)):
        path = tmp_path / name
        if name == "corrupt":
            path.write_bytes(b"not weights")
        with pytest.raises(error, match=name) as caught:
            extractor(str(path)).load()
        assert "\n" not in str(caught.value)


def test_an_arbitrary_pickle_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    torch.save(Payload(), tmp_path / "payload.pth")
    with pytest.raises(ValueError, match="payload.pth"):
        Inception(str(tmp_path / "payload.pth")).load()
    assert not (tmp_path / "executed").exists()


def test_without_network_the_file_and_its_place_are_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    place = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(FileNotFoundError, match="fetch https.*6726825d.pth.*`weights`") as caught:
        Inception().load()
    assert f"put it at {place}" in str(caught.value) and "\n" not in str(caught.value)
    place.write_bytes(b"another file")
    with pytest.raises(ValueError, match="SHA-256"):
        Inception().load()


@pytest.mark.parametrize(("name", "source"), [("digits", Digits), ("mnist", SmallMNIST)])
def test_shipped_classifiers_are_small_and_reach_their_recorded_accuracy(name, source):
    assert Classifier.SHIPPED[name].stat().st_size < 1e6
    extractor = Classifier(name).load()
    _, facts = classifier.load(Classifier.SHIPPED[name])
    images, labels = map(torch.from_numpy, source().load("test"))
    assert extractor.distance.startswith(f"fcd-{name}-")
    assert extractor.resize == f"bilinear-antialias-{source().image_size[0]}"
    assert classifier.accuracy(extractor.network, images, labels) == facts["test_accuracy"] > 0.97
    assert len(labels) == facts["num_test"]


def test_classifier_features_are_the_layer_before_the_logits():
    extractor = Classifier()
    images, labels = digits("test")
    features = extractor(images)
    assert features.shape == (len(images), extractor.num_features)
    share = (extractor.network.head(features).argmax(dim=1) == labels).double().mean().item()
    assert share == classifier.load(Classifier.SHIPPED["digits"])[1]["test_accuracy"]


def test_classifier_is_named_after_its_file():
    file_hash = hashlib.sha256(Classifier.SHIPPED["digits"].read_bytes()).hexdigest()
    extractor = Classifier().load()
    assert extractor.distance == f"fcd-digits-{file_hash[:8]}"
    assert extractor.describe() == {
        "name": "digits",
        "weights_hash": file_hash,
        "resize": "bilinear-antialias-8",
        "num_features": 64,
    }


def test_classifier_takes_images_of_other_sizes_and_channels():
    extractor = Classifier()
    images, labels = digits()
    assert extractor(images.repeat(1, 3, 1, 1)).equal(extractor(images))
    enlarged = images.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    expected = F.interpolate(enlarged / 127.5 - 1, size=(8, 8), mode="bilinear", antialias=True)
    features = extractor(enlarged)
    torch.testing.assert_close(features, extractor.network.features(expected), rtol=0, atol=1e-5)
    assert (extractor.network.head(features).argmax(dim=1) == labels).double().mean() > 0.9


def test_a_classifier_of_other_images_is_rebuilt_from_its_file(tmp_path):
    network = classifier.ClassifierNetwork(image_size=20, channels=3, num_classes=4, widths=[8, 16]).eval()
    classifier.save(tmp_path / "other.safetensors", network, name="other")
    extractor = Classifier(str(tmp_path / "other.safetensors")).load()
    assert extractor.distance.startswith("fcd-other-") and extractor.resize == "bilinear-antialias-20"
    images = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    expected = network.features(images / 127.5 - 1)
    torch.testing.assert_close(extractor(images), expected)
    json.dumps(extractor.describe())


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("src.metrics.weights.PATIENCE", 0.2)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(MissingWeights, match="timed out"):
            located(None, f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth")
    assert time.monotonic() - began < 5 and socket.getdefaulttimeout() is None
