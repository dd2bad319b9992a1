"""Shards of litdata: all images, in an exact order that stays within few shards, on little disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fit, make_gan, make_trainer, refusal

from src.data import streaming
from src.data.dataset import ImageDataset
from src.data.streaming import ShardSampler, Streaming, permutation_of_shards
from src.images.measurements import MissingPixels

SIZES = [7, 7, 7, 7, 7, 7, 7, 1]


def pixels(number):
    return np.random.RandomState(number).randint(0, 256, (1, 4, 4), dtype=np.uint8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """50 images in 8 shards."""
    litdata = pytest.importorskip("litdata")
    from litdata.streaming.cache import Cache

    folder = tmp_path_factory.mktemp("shards")
    cache = Cache(str(folder), chunk_size=SIZES[0])  # what `litdata.optimize` writes with, in processes of its own
    for number in range(50):
        cache[number] = {"image": pixels(number), "label": number % 3}
    cache.done()
    cache.merge()
    assert litdata and len(json.loads((folder / "index.json").read_text())["chunks"]) == len(SIZES)
    return folder


def test_the_order_is_exact_and_mixes_few_shards():
    order = permutation_of_shards(SIZES, 2, 1, seed=3, epoch=5)
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, permutation_of_shards(SIZES, 2, 1, seed=3, epoch=5))
    assert not torch.equal(order, permutation_of_shards(SIZES, 2, 1, seed=3, epoch=6))
    of = np.searchsorted(np.cumsum(SIZES), order.numpy(), side="right")
    turns = [set(of[:n]) for n in range(1, 51)]
    for n in range(50):  # a shard comes to an end before more than one other has begun
        open_ = [shard for shard in turns[n] if (of[: n + 1] == shard).sum() < SIZES[shard]]
        assert len(open_) <= 2
    mirrored = permutation_of_shards(SIZES, 2, 2, seed=3, epoch=5)
    assert sorted(mirrored.tolist()) == list(range(100))


def test_a_step_has_the_images_of_its_number_whenever_the_run_began():
    def sampler(step, **origin):
        return ShardSampler(
            SIZES, 2, num_images=50, batch_size=8, batches_per_step=2, seed=0, rank=0, world_size=1,
            current_step=lambda: step, **origin,
        )  # fmt: skip

    whole = [sampler(0).indices(step) for step in range(10)]
    assert [sampler(7).indices(step) for step in range(7, 10)] == whole[7:]
    assert sorted(sum(whole, [])[:50]) == list(range(50))


def indices(step, rank, world_size):
    options = {"num_images": 50, "batch_size": 10, "batches_per_step": 1, "seed": 0, "current_step": int}
    return ShardSampler(SIZES, 1, rank=rank, world_size=world_size, **options).indices(step)


def test_two_processes_share_out_an_epoch():
    whole = [indices(step, 0, 1) for step in range(5)]
    assert [indices(step, 0, 2) + indices(step, 1, 2) for step in range(5)] == whole
    assert sorted(sum(whole, [])) == list(range(50))


def read(rank, shards, folder):
    """What one of two processes sees of an epoch; both fetch into one folder, and remove what they have read."""
    images, labels = Streaming(f"local:{shards}", mixed=1, cache_dir=str(folder / "cache")).split("train")
    dataset = ImageDataset(images, labels, flip=False)
    torch.save([dataset[indices(step, rank, 2)] for step in range(5)], folder / f"{rank}.pt")


def test_two_processes_that_read_at_once_see_the_images_of_the_order(shards, tmp_path):
    torch.multiprocessing.spawn(read, (shards, tmp_path), nprocs=2)
    for rank in range(2):
        for step, (images, labels) in enumerate(torch.load(tmp_path / f"{rank}.pt")):
            numbers = indices(step, rank, 2)
            assert np.array_equal(images, [pixels(number) for number in numbers])
            assert labels.tolist() == [number % 3 for number in numbers]


def test_images_are_measured(shards, tmp_path):
    data = Streaming(str(shards), batch_size=4, measurement=MissingPixels(0.5))
    fit(tmp_path, make_gan(num_classes=3), data, max_steps=1)


def test_a_shard_that_another_process_fetches_is_waited_for(monkeypatch):
    monkeypatch.setattr(streaming, "PATIENCE", 0.1)
    answers = iter([FileNotFoundError, FileNotFoundError, None])

    def read():
        if answer := next(answers, FileNotFoundError):
            raise answer
        return "image"

    assert streaming.patiently(read) == "image"
    with pytest.raises(FileNotFoundError):
        streaming.patiently(read)


@pytest.mark.parametrize("remote", [False, True])
def test_images_labels_and_what_stays_on_the_disk(shards, tmp_path, remote):
    data = Streaming(f"local:{shards}" if remote else str(shards), mixed=1, cache_dir=str(tmp_path / "cache"))
    assert (data.image_size, data.channels, data.class_names) == ((4, 4), 1, ["0", "1", "2"])
    images, labels = data.split("train")
    assert labels.tolist() == [number % 3 for number in range(50)]
    for rows in ([49, 3, 20, 3], slice(5, 30, 4), np.array([0]), slice(None)):
        expected = [pixels(number) for number in np.arange(50)[rows]]
        assert np.array_equal(images[rows], expected)
    fetched = list((tmp_path / "cache").rglob("*.bin"))
    assert len(fetched) == (3 if remote else 0) and len(list(shards.glob("*.bin"))) == len(SIZES)
    again = Streaming(str(shards), labels=False)
    assert again.num_classes == 0 and len(again.drawn("train", 10)) == 10


def checkpoint(folder, steps, shards, resumed=None, **options):
    gan, trainer = make_gan(num_classes=3), make_trainer(folder, max_steps=steps)
    data = Streaming(f"local:{shards}", mixed=2, batch_size=8, flip=True, cache_dir=str(folder / "cache"), **options)
    trainer.fit(gan, datamodule=data, ckpt_path=resumed)
    trainer.save_checkpoint(folder / "last.ckpt")
    return gan


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(shards, tmp_path, workers):
    whole = checkpoint(tmp_path / "whole", 9, shards)
    checkpoint(tmp_path / "a", 5, shards, num_workers=workers)  # in the middle of an epoch
    parts = checkpoint(tmp_path / "b", 9, shards, resumed=tmp_path / "a" / "last.ckpt", num_workers=workers)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_a_subset_is_read_into_memory(shards, tmp_path):
    data = Streaming(str(shards), subset=10, batch_size=4)
    fit(tmp_path, make_gan(num_classes=3), data, max_steps=2)
    assert isinstance(data.split("train")[0], np.ndarray) and data.num_images("train") == 10


def test_what_cannot_be_read_is_refused_in_a_line(shards, tmp_path, monkeypatch, capsys):
    config = ["fit", "--model.generator", "mlp.Generator", "--model.discriminator", "mlp.Discriminator"]
    said = refusal([*config, "--data", "Streaming", "--data.url", str(tmp_path)], capsys)
    assert f"there are no shards of litdata in {tmp_path}" in said and "src/data/README.md" in said
    monkeypatch.setattr(streaming.Shards, "item", lambda self, row: {"image": np.zeros((4, 4), np.uint8)})
    with pytest.raises(ValueError, match="item 0 of .* has no `image` of uint8"):
        Streaming(str(shards))


def test_without_litdata_a_line_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "litdata", None)
    config = ["fit", "--model.generator", "mlp.Generator", "--model.discriminator", "mlp.Discriminator"]
    said = refusal([*config, "--data", "Streaming", "--data.url", str(Path(tmp_path))], capsys)
    assert "--data Streaming needs litdata (.venv/bin/pip install litdata)" in said
