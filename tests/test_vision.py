"""Benchmark sets, read from small files in the formats in which they are distributed."""

import gzip
import pickle

import numpy as np
import pytest
from PIL import Image

from src.data import vision

RANDOM = np.random.RandomState(0)


def noise(*shape):
    return RANDOM.randint(0, 256, shape).astype(np.uint8)


@pytest.fixture
def unchecked(monkeypatch):
    """The files here are not those of the checksums."""
    from torchvision import datasets

    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    for dataset in (datasets.SVHN, datasets.STL10):
        monkeypatch.setattr(dataset, "_check_integrity", lambda self: True)


def read(data, split):
    data.prepare_data()
    data.setup("fit")
    return data.split(split)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_idx_files(tmp_path, name):
    images, labels = noise(7, 28, 28), np.arange(7, dtype=np.uint8)
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 7), ("t10k", 3)):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images[:count].tobytes())
        header = b"\0\0\x08\x01" + count.to_bytes(4, "big")
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels[:count].tobytes())
        for path in raw.glob(f"{prefix}*ubyte"):  # the downloaded form lies beside
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    data = getattr(vision, name)(root=str(tmp_path))
    found, found_labels = read(data, "train")
    assert np.array_equal(found, images[:, None]) and np.array_equal(found_labels, labels)
    assert data.num_images("test") == 3


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_batches(tmp_path, unchecked, name):
    key, folder = ("labels", "cifar-10-batches-py") if name == "CIFAR10" else ("fine_labels", "cifar-100-python")
    (tmp_path / folder).mkdir()
    parts = (
        {f"data_batch_{i}": 2 for i in range(1, 6)} | {"test_batch": 3}
        if name == "CIFAR10"
        else {"train": 10, "test": 3}
    )
    written = []
    for part, count in parts.items():
        entry = {"data": noise(count, 3072), key: RANDOM.randint(0, 10, count).tolist()}
        written.append(entry)
        (tmp_path / folder / part).write_bytes(pickle.dumps(entry))
    meta = {"label_names": ["x"] * 10, "fine_label_names": ["x"] * 100}
    (tmp_path / folder / ("batches.meta" if name == "CIFAR10" else "meta")).write_bytes(pickle.dumps(meta))
    data = getattr(vision, name)(root=str(tmp_path))
    images, labels = read(data, "train")
    assert np.array_equal(images, np.concatenate([e["data"] for e in written[:-1]]).reshape(10, 3, 32, 32))
    assert labels.tolist() == sum([e[key] for e in written[:-1]], [])
    assert np.array_equal(data.split("test")[0], written[-1]["data"].reshape(3, 3, 32, 32))


def test_svhn_mat(tmp_path, unchecked):
    from scipy.io import savemat

    images = noise(32, 32, 3, 5)
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": np.array([[1], [9], [10], [2], [10]], np.uint8)})
    found, labels = read(vision.SVHN(root=str(tmp_path)), "train")
    assert np.array_equal(found, images.transpose(3, 2, 0, 1))
    assert labels.tolist() == [1, 9, 0, 2, 0]  # the file calls the digit zero 10


def test_stl10_bin(tmp_path, unchecked):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = noise(4, 3, 96, 96)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())  # column-major
        (folder / f"{split}_y.bin").write_bytes(bytes([1, 10, 3, 4]))
    found, labels = read(vision.STL10(root=str(tmp_path)), "test")
    assert np.array_equal(found, images) and labels.tolist() == [0, 9, 2, 3]


def celeba(root):
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    rows = []
    for i, part in enumerate([0, 0, 1, 2, 0]):
        image = np.zeros((218, 178, 3), np.uint8)
        image[20:198] = 40 * i + 20  # the centred square
        Image.fromarray(image).save(folder / f"{i:06}.jpg", quality=95)
        rows.append(f"{i:06}.jpg {part}\n")
    (root / "celeba" / "list_eval_partition.txt").write_text("".join(rows))


def test_celeba_is_cropped_to_the_centre(tmp_path):
    celeba(tmp_path)
    data = vision.CelebA(root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    images, labels = read(data, "train")
    assert (data.image_size, data.channels, data.num_classes, labels) == ((64, 64), 3, 0, None)
    assert images.shape == (3, 3, 64, 64)
    assert np.abs(images.mean((1, 2, 3)) - [20, 60, 180]).max() < 3
    assert abs(data.split("test")[0].mean() - 140) < 3
    native = vision.CelebA(root=str(tmp_path), cache_dir=str(tmp_path / "cache"), image_size=None)
    assert read(native, "train")[0].shape == (3, 3, 218, 178) and native.image_size == (218, 178)


SETS = {
    "MNIST": (28, 1, 10),
    "FashionMNIST": (28, 1, 10),
    "CIFAR10": (32, 3, 10),
    "CIFAR100": (32, 3, 100),
    "SVHN": (32, 3, 10),
    "STL10": (96, 3, 10),
}


@pytest.mark.parametrize("name", SETS)
def test_facts_need_no_files(tmp_path, name):
    size, channels, num_classes = SETS[name]
    data = getattr(vision, name)(root=str(tmp_path))
    assert (data.image_size, data.channels, data.num_classes) == ((size, size), channels, num_classes)
    assert len(set(data.class_names)) == num_classes
    assert getattr(vision, name)(root=str(tmp_path), labels=False, image_size=[8, 4]).image_size == (8, 4)


@pytest.mark.parametrize("name", [*SETS, "CelebA"])
def test_missing_files_name_the_remedy(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no {name} under .*--data.download true") as caught:
        read(getattr(vision, name)(root=str(tmp_path)), "train")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_class_names_are_those_of_torchvision():
    from torchvision import datasets

    names = [name.replace(" ", "_") for name in datasets.FashionMNIST.classes]
    assert vision.FashionMNIST().class_names == names


def test_other_size_and_hidden_labels(tmp_path, unchecked):
    test_stl10_bin(tmp_path, None)
    data = vision.STL10(root=str(tmp_path), image_size=32, labels=False)
    images, labels = read(data, "train")
    assert images.shape == (4, 3, 32, 32) and images.dtype == np.uint8 and labels is None


@pytest.mark.parametrize("name", ["MNIST", "SVHN"])
def test_download_fetches_both_splits(tmp_path, monkeypatch, name):
    asked = []
    cls = getattr(vision, name)
    monkeypatch.setattr(cls, "arrays", lambda self, split, download: asked.append((split, download)))
    cls(root=str(tmp_path), download=True).prepare_data()
    assert asked == [("train", True), ("test", True)]


def test_a_download_that_fails_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("To download files from GDrive, 'gdown' is required")

    monkeypatch.setattr("torchvision.datasets.CelebA", fail)
    data = vision.CelebA(root=str(tmp_path), download=True)
    with pytest.raises(FileNotFoundError, match="cannot download CelebA .*gdown.*fetch it by other means"):
        data.prepare_data()
