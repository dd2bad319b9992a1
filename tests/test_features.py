import hashlib
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.data.digits import Digits
from src.metrics import classifier
from src.metrics.features import Classifier, Extractor, Inception, exact_float32, match_channels


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


def test_inception_gives_the_features_of_torch_fidelity(inception_file):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    reference = FeatureExtractorInceptionV3("reference", ["2048"], feature_extractor_weights_path=str(inception_file))
    extractor = Inception(str(inception_file))
    for size in (32, 320):
        images = torch.randint(
            256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size)
        )
        (expected,) = reference(images)
        torch.testing.assert_close(extractor(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


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
    monkeypatch.setattr(Inception, "ORIGINAL", file_hash[:8])
    assert Inception(str(inception_file)).load().distance == "fid"


def test_grey_is_repeated_and_alpha_is_dropped(inception_file):
    extractor = Inception(str(inception_file))
    grey = digits()[0][:2]
    expected = extractor(grey.repeat(1, 3, 1, 1))
    assert extractor(grey).equal(expected)
    assert extractor(torch.cat([grey.repeat(1, 3, 1, 1), torch.randint_like(grey, 256)], dim=1)).equal(expected)
    with pytest.raises(ValueError, match="5 channels"):
        extractor(grey.repeat(1, 5, 1, 1))


def test_rgb_becomes_grey_by_the_mean():
    images = torch.tensor([10, 20, 60, 255], dtype=torch.uint8).view(1, 4, 1, 1)
    assert match_channels(images, 1).item() == match_channels(images[:, :3], 1).item() == 30


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


def test_without_network_the_file_and_the_option_are_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError, match="6726825d.pth.*`weights`") as caught:
        Inception().load()
    assert "\n" not in str(caught.value)


def test_shipped_classifier_is_small_and_reaches_its_recorded_accuracy():
    assert Classifier.DIGITS.stat().st_size < 1e6
    network, facts = classifier.load(Classifier.DIGITS)
    images, labels = digits("test")
    assert classifier.accuracy(network, images, labels) == facts["test_accuracy"] > 0.97
    assert len(labels) == facts["num_test"]


def test_classifier_features_are_the_layer_before_the_logits():
    extractor = Classifier()
    images, labels = digits("test")
    features = extractor(images)
    assert features.shape == (len(images), extractor.num_features)
    share = (extractor.network.head(features).argmax(dim=1) == labels).double().mean().item()
    assert share == classifier.load(Classifier.DIGITS)[1]["test_accuracy"]


def test_classifier_is_named_after_its_file():
    file_hash = hashlib.sha256(Classifier.DIGITS.read_bytes()).hexdigest()
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


def test_same_seed_writes_the_same_bytes(tmp_path, capsys):
    state = torch.get_rng_state()
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        classifier.main(["--output", str(tmp_path / name), "--steps", "3", "--seed", str(seed)])
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]
    assert "held-out" in capsys.readouterr().out
    assert torch.get_rng_state().equal(state)


def test_training_learns():
    images, labels = digits("train")
    torch.manual_seed(0)
    network = classifier.ClassifierNetwork(8, 1, 10, widths=[16, 32])
    classifier.train(network, images, labels, steps=300)
    assert classifier.accuracy(network, *digits("test")) > 0.9


def test_a_classifier_of_other_images_is_rebuilt_from_its_file(tmp_path):
    network = classifier.ClassifierNetwork(image_size=20, channels=3, num_classes=4, widths=[8, 16]).eval()
    classifier.save(tmp_path / "other.safetensors", network, name="other")
    extractor = Classifier(str(tmp_path / "other.safetensors")).load()
    assert extractor.distance.startswith("fcd-other-") and extractor.resize == "bilinear-antialias-20"
    images = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    expected = network.features(images / 127.5 - 1)
    torch.testing.assert_close(extractor(images), expected)
    json.dumps(extractor.describe())
