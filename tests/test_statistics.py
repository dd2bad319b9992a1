"""Features of real images are computed once, and never taken from a file that cannot be trusted."""

import contextlib
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch.distributed import ReduceOp

from src.data.digits import Digits
from src.engine.batches import EVAL_BATCH
from src.metrics import kept, statistics
from src.metrics.features import Classifier
from src.metrics.fid import FrechetDistance
from src.metrics.kept import real_features
from src.metrics.kernel import KernelDistance
from src.metrics.statistics import GROUPS, Collector, Features, groups_of, random_numbers


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
    batches = torch.from_numpy(images[:count]).split(EVAL_BATCH)
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


def test_writers_at_once_leave_a_whole_file(tmp_path, monkeypatch):
    # Threads stand for processes here, and would restore the precision for each other.
    monkeypatch.setattr("src.metrics.features.exact_float32", lambda device: contextlib.nullcontext())
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


class Threads:
    """Stands for `torch.distributed`: threads that call `all_reduce` together."""

    ReduceOp = ReduceOp

    def __init__(self, number):
        self.barrier, self.given, self.local = threading.Barrier(number, timeout=60), [None] * number, threading.local()

    def is_available(self):
        return True

    is_initialized = is_available

    def all_reduce(self, tensor, operation):
        self.given[self.local.rank] = tensor.clone()
        self.barrier.wait()
        result = torch.stack(self.given)
        self.barrier.wait()
        tensor.copy_(result.sum(0) if operation == ReduceOp.SUM else result.amax(0))

    def run(self, number, function):
        """Results of function(rank) on every thread."""
        results = [None] * number

        def work(rank):
            self.local.rank = rank
            results[rank] = function(rank)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class Given(Classifier):
    """Features with a mean far from zero, looked up; the image is its number."""

    VALUES = torch.randn(900, 64, generator=torch.Generator().manual_seed(0)) + 10

    def both(self, images):
        values = self.VALUES[images.flatten()]
        return values, values[:, :10]


SHARES = {1: [range(900)], 2: [range(650), range(650, 900)], 3: [range(600, 900), range(0), range(600)]}


def collected(shares, keep, monkeypatch):
    """The features on each of some processes, which look at their shares in random order."""
    threads = Threads(len(shares))
    monkeypatch.setattr(statistics, "dist", threads)

    def work(rank):
        collector = Collector(Given(), keep)
        for part in torch.tensor(shares[rank]).split(37):
            indices = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(rank))]
            if len(indices):
                collector.update(indices[:, None], indices, indices % 7)
        return collector.gather()

    return threads.run(len(shares), work)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("keep", [100, 1000])
def test_sums_are_of_all_images_and_a_choice_of_them_is_kept(num_processes, keep, monkeypatch):
    """Whatever the number of processes, one of them without an image."""
    every = Features(Given.VALUES)
    first = None
    for features in collected(SHARES[num_processes], keep, monkeypatch):
        assert (features.count, len(features)) == (900, min(keep, 900))
        torch.testing.assert_close(features.mean, every.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(features.covariance, every.covariance, rtol=1e-10, atol=1e-12)
        groups = groups_of(torch.arange(900))  # of those that are not held
        groups[features.indices] = features.groups
        for group in range(GROUPS):
            fewer = every.select(groups != group)
            others = features.without(group)
            assert others.count == len(fewer) and 700 < len(fewer) < 900
            torch.testing.assert_close(others.mean, fewer.mean, rtol=1e-12, atol=0)
            torch.testing.assert_close(others.covariance, fewer.covariance, rtol=1e-10, atol=1e-12)
        kept = features.indices
        assert torch.equal(features.values, Given.VALUES[kept]) and torch.equal(features.labels, kept % 7)
        assert torch.equal(features.logits, features.values[:, :10]) and torch.equal(kept, kept.unique())
        first = kept if first is None else first
        assert torch.equal(kept, first)
    assert torch.equal(first, collected(SHARES[1], keep, monkeypatch)[0].indices)


def test_the_distance_is_of_all_images_and_other_figures_say_that_they_are_not(monkeypatch):
    every, (features,) = Features(Given.VALUES), collected(SHARES[1], 100, monkeypatch)
    every.assigned = groups_of(torch.arange(900))
    every.assigned[features.indices] = features.groups
    real = Features(torch.randn(300, 64, generator=torch.Generator().manual_seed(1)) + 10)
    for metric in (FrechetDistance(Classifier()), KernelDistance(Classifier())):
        metric.setup("cpu")
        (figure,), (expected,) = metric.figures(real, features, True, {}), metric.figures(real, every, True, {})
        facts = figure["protocol"]
        assert facts["num_fake"] == 900
        if isinstance(metric, FrechetDistance):
            assert (figure["value"], figure["error"]) == pytest.approx((expected["value"], expected["error"]), rel=1e-9)
            assert facts == expected["protocol"]
        else:
            assert (facts["drawn_real"], facts["drawn_fake"]) == (300, 100)


def test_the_choice_is_spread_over_all_images():
    kept = Collector(Classifier(), 5000).chosen(torch.arange(100_000))
    for period in (2, 10, 377):  # classes that come in turns, or one after the other
        assert (kept % period).bincount(minlength=period).float().std() < 3 * (5000 / period) ** 0.5
    assert (kept // 10_000).bincount().float().std() < 3 * 500**0.5


def test_a_file_holds_no_more_than_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "Collector", partial(Collector, keep=60))
    extractor = Counting()
    first = extract(tmp_path, extractor, count=1000)
    second = extract(tmp_path, extractor, count=1000)
    assert extractor.seen == 1000 and (first.count, len(first)) == (1000, 60) == (second.count, len(second))
    assert equal(first, second) and torch.equal(first.indices, second.indices) and torch.equal(first.mean, second.mean)
    torch.testing.assert_close(first.covariance, second.covariance)
    whole = Features(Classifier()(torch.from_numpy(Digits().load("train")[0][:1000])))
    torch.testing.assert_close(second.covariance, whole.covariance, rtol=1e-9, atol=1e-12)


def test_features_that_give_no_figure_are_not_kept(tmp_path):
    class Diverged(Classifier):
        def both(self, images):
            values, logits = super().both(images)
            return values * float("nan"), logits

    assert extract(tmp_path, Diverged()).count == 120
    assert extract(tmp_path, Classifier(), count=1).count == 1
    assert list(tmp_path.iterdir()) == []


def test_groups_are_even_and_do_not_follow_classes_that_take_turns():
    for classes in (2, 5, 10):
        labels = torch.arange(1000) % classes
        for given, least in ((labels, 100 / classes), (None, 0.2 * 100 / classes)):
            groups = Features(torch.zeros(1000, 1), labels=given).groups
            assert (groups.bincount() == 100).all()
            shares = torch.zeros(GROUPS, classes)
            shares.index_put_((groups, labels), torch.ones(1000), accumulate=True)
            assert shares.min() >= least
    some = Features(torch.zeros(1000, 1)).select(torch.arange(1000) % 7 == 0)
    assert torch.equal(some.groups, Features(torch.zeros(1000, 1)).groups[::7])  # a part keeps those of the whole
    assert (random_numbers(torch.tensor([999, 70000])) == random_numbers(torch.arange(70001))[[999, 70000]]).all()
