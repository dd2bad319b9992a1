"""The command that trains a classifier for the features of a distance."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from src.data.digits import Digits
from src.metrics import classifier
from src.metrics.features import Classifier


def digits(split):
    images, labels = Digits().load(split)
    return torch.from_numpy(images), torch.from_numpy(labels)


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


@pytest.mark.slow
def test_the_command_writes_a_network_like_the_shipped_one(tmp_path):
    """The same bytes only on a machine that rounds like the one that it was made on."""
    classifier.main(["--output", str(tmp_path / "again.safetensors")])
    images, labels = digits("test")
    predicted = []
    for path in (None, str(tmp_path / "again.safetensors")):
        extractor = Classifier(path).load()
        predicted.append(extractor.logits(extractor(images)).argmax(1))
        assert (predicted[-1] == labels).float().mean() > 0.98
    assert (predicted[0] == predicted[1]).float().mean() > 0.98


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sixty colour images of two classes, reddish and bluish, in a folder."""
    monkeypatch.chdir(tmp_path)  # where the decoded images are kept
    random = np.random.RandomState(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            pixels = random.randint(0, 100, (12, 12, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def command(*options, output="of me.safetensors"):
    classifier.main(["--data", "folder", "--output", output, "--steps", "20", *map(str, options)])


@pytest.mark.parametrize("held_out", ["one in ten", "test_root"])
def test_a_classifier_of_a_folder(held_out, folder, capsys, recwarn):
    command("--root", folder, "--widths", "8,16", *(["--test_root", folder] if held_out == "test_root" else []))
    said = capsys.readouterr().out
    assert f"accuracy 100.00% on {6 if held_out == 'one in ten' else 60} held-out images" in said
    (metric,) = yaml.safe_load(said.partition("\n")[2])["model"]["metrics"]
    described = metric["init_args"]["extractor"]
    assert described["class_path"] == "src.metrics.features.Classifier"
    extractor = Classifier(**described["init_args"])
    features, logits = extractor.both(torch.zeros(2, 3, 12, 12, dtype=torch.uint8))
    assert features.shape == (2, 16) and logits.shape == (2, 2)
    assert extractor.distance.startswith("fcd-images-") and extractor.resize == "bilinear-antialias-12"
    assert not [warning for warning in recwarn if "writ" in str(warning.message)]


def test_what_is_held_out_is_not_trained_on(folder):
    train, test = classifier.folder(str(folder), None, image_size=None)
    assert sorted([*train.rows, *test.rows]) == list(range(60))
    for part in (train, test):
        assert part.labels[part.rows].double().mean() == 0.5
    network = classifier.ClassifierNetwork(12, 3, 2, widths=[4])
    poisoned = train.images.clone(), train.labels.clone()
    poisoned[0][test.rows], poisoned[1][test.rows] = 255, 1
    states = []
    for images, labels in ((train.images, train.labels), poisoned):
        torch.manual_seed(0)
        network = classifier.ClassifierNetwork(12, 3, 2, widths=[4])
        classifier.train(network, images, labels, steps=5, rows=train.rows)
        states.append(network.state_dict())
    assert all(states[0][key].equal(states[1][key]) for key in states[0])


def test_a_table_of_labels_and_its_splits(tmp_path):
    """Classes that take turns, ten of them: every tenth file would be of one class."""
    for i in range(200):
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.new("L", (8, 8), i).save(tmp_path / "train" / f"{i:03d}.png")
    rows = [f"train/{i:03d}.png,{i % 10},{i % 2}" for i in range(200)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,digit,odd", *rows]))
    train, test = classifier.folder(str(tmp_path), None, None, "digit")
    assert test.labels[test.rows].bincount().tolist() == [2] * 10
    (tmp_path / "test").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "test" / "200.png")
    (tmp_path / "labels.csv").write_text("\n".join(["file,digit,odd", *rows, "test/200.png,7,1"]))
    train, test = classifier.folder(str(tmp_path), None, None, "digit")
    assert len(train.rows) == 200 and test.labels.tolist() == [7]


def test_accuracy_counts_every_row_once():
    images, labels = digits("train")
    network, _ = classifier.load(Classifier.SHIPPED["digits"])
    rows = torch.arange(700, 1437)
    labels[:1000] += 1  # mostly wrong, and more so before row 700
    with torch.no_grad():
        right = network(images / 127.5 - 1).argmax(dim=1) == labels
    assert classifier.accuracy(network, images, labels) == right.double().mean()
    assert classifier.accuracy(network, images, labels, rows) == right[rows].double().mean()


WRONG = {
    "needs --root": [],
    "does not exist": ["--root", "nowhere"],
    "no labels in .*sub-folder": ["--root", "images/red"],
    "choose a square with --image_size": ["--root", "tall"],
    "different sizes.* --image_size": ["--root", "mixed"],
    "too few to hold out": ["--root", "tall", "--image_size", "8"],
    "--widths a,b": ["--root", "images", "--widths", "a,b"],
    "cannot be written": ["--root", "images", "--output", "images"],
    "--device abacus": ["--root", "images", "--device", "abacus"],
    "are of --data folder": ["--data", "digits", "--image_size", "8"],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_done_is_said_in_one_line(message, folder):
    for root, sizes in (("tall", [(8, 12)] * 2), ("mixed", [(8, 8), (9, 9)])):
        for name, size in zip("ab", sizes, strict=True):
            (folder.parent / root / name).mkdir(parents=True)
            Image.new("RGB", size).save(folder.parent / root / name / "0.png")
    with pytest.raises(SystemExit, match=message) as stopped:
        command(*WRONG[message])
    said = str(stopped.value)
    assert said.startswith("error: ") and "\n" not in said and "--data." not in said
