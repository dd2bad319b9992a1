"""Features of real images are computed once, and never taken from a file that cannot be trusted."""

import threading

import numpy as np
import pytest
import torch

from src.data.digits import Digits
from src.metrics.features import Classifier
from src.metrics.statistics import Collector, real_features


class Counting(Classifier):
    """Counts the images that it looks at."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def both(self, images):
        self.seen += len(images)
        return super().both(images)


def extract(folder, extractor, fingerprint="a", count=120):
    images, labels = Digits().load("train")
    batches = torch.from_numpy(images[:count]).split(50)
    return real_features(batches, labels[:count], count, fingerprint, extractor, folder)


def equal(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("values", "logits", "labels", "factor"))


def test_the_second_call_reads_the_file(tmp_path):
    extractor = Counting()
    first = extract(tmp_path, extractor)
    assert extractor.seen == len(first) == 120
    second = extract(tmp_path, extractor)
    assert extractor.seen == 120 and equal(first, second)
    assert np.array_equal(first.labels, Digits().load("train")[1][:120])


def test_other_images_or_another_extractor_are_computed(tmp_path):
    extractor = Counting()
    extract(tmp_path, extractor)
    extract(tmp_path, extractor, fingerprint="b")
    assert extractor.seen == 240
    other = Counting()
    other.load()
    other.resize = "otherwise"
    extract(tmp_path, other)
    assert other.seen == 120 and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flip"])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    extractor = Counting()
    first = extract(tmp_path, extractor)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    damaged = {"cut": whole[: len(whole) // 2], "garbage": b"x" * 1000, "empty": b"", "flip": flipped}
    path.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match="made anew"):
        again = extract(tmp_path, extractor)
    assert equal(first, again) and extractor.seen == 240 and path.read_bytes() == whole


def test_a_file_under_the_wrong_name_is_not_taken(tmp_path):
    extract(tmp_path / "a", Counting(), "a")
    extract(tmp_path / "b", Counting(), "b")
    (a,), (b,) = ((tmp_path / name).iterdir() for name in "ab")
    a.write_bytes(b.read_bytes())
    with pytest.warns(UserWarning, match="of other images"):
        extract(tmp_path / "a", Counting(), "a")


def test_writers_at_once_leave_a_whole_file(tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(extract(tmp_path, Counting()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    extractor = Counting()
    assert all(equal(result, extract(tmp_path, extractor)) for result in results) and extractor.seen == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="not kept"):
        assert len(extract(tmp_path / "file", Counting())) == 120


def test_collected_features_come_in_the_order_of_the_images():
    images = torch.from_numpy(Digits().load("test")[0])
    collector = Collector(Classifier())
    for indices in torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(70):
        collector.update(images[indices], indices, indices * 2)
    features = collector.gather()
    assert torch.equal(features.values, Classifier()(images))
    assert torch.equal(features.labels, torch.arange(len(images)) * 2)
    with pytest.raises(ValueError, match="no image was generated"):
        Collector(Classifier()).gather()
