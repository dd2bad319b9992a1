"""What `predict` writes: which images, of which form, and how far from their mean."""

import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from src.callbacks.pictures import grid
from src.callbacks.predictions import PredictionWriter
from src.cli import load, main
from src.commands.numbers import numbers_of
from src.commands.truncation import Truncated
from src.images.pixels import to_uint8


def predict(brief, folder, *options):
    main(["predict", "--ckpt_path", brief, "--output", str(folder), *options])
    return folder


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_numbers_are_lists_and_ranges():
    assert numbers_of("3,7, 11-14 ,0", "--seeds") == [3, 7, 11, 12, 13, 14, 0]
    for text in ("", "3,", "a", "3-", "-3", "9-3", "1.5", "²"):
        with pytest.raises(ValueError, match=r"--seeds .* is no list of numbers from 0: write 3,7,11-20"):
            numbers_of(text, "--seeds")
    with pytest.raises(ValueError, match="names 5 twice"):
        numbers_of("3-6,5", "--seeds")


def test_chosen_numbers_are_the_images_of_those_numbers(brief, tmp_path):
    many, few = predict(brief, tmp_path / "a"), predict(brief, tmp_path / "b", "--seeds", "40,3,5-7", "--columns", "2")
    assert sorted(path.name for path in (few / "images").iterdir()) == [f"{i:06d}.png" for i in (3, 5, 6, 7, 40)]
    for path in (few / "images").iterdir():
        assert path.read_bytes() == (many / "images" / path.name).read_bytes()
    shown = [torch.from_numpy(pixels(few / "images" / f"{i:06d}.png").copy())[None] for i in (40, 3, 5, 6, 7)]
    assert np.array_equal(pixels(few / "grid.png"), np.asarray(grid(torch.stack(shown), 2)))  # in the order asked for


def test_each_format_holds_the_same_images(brief, tmp_path, capsys):
    png = predict(brief, tmp_path / "png", "--num_images", "30")
    names = [f"{i:06d}" for i in range(30)]
    there = [pixels(png / "images" / f"{name}.png") for name in names]
    webp = predict(brief, tmp_path / "webp", "--num_images", "30", "--format", "webp")
    jpg = predict(brief, tmp_path / "jpg", "--num_images", "30", "--format", "jpg")
    packed = predict(brief, tmp_path / "zip", "--num_images", "30", "--format", "zip", "--batch_size", "7")
    capsys.readouterr()
    held = np.load(predict(brief, tmp_path / "npz", "--num_images", "30", "--format", "npz") / "images.npz")
    assert f"30 images in {tmp_path / 'npz' / 'images.npz'}" in capsys.readouterr().out
    with zipfile.ZipFile(packed / "images.zip") as archive:
        assert archive.namelist() == [f"{name}.png" for name in names]
        zipped = [pixels(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    assert held["numbers"].tolist() == list(range(30)) and held["labels"].tolist() == [i % 10 for i in range(30)]
    for i, image in enumerate(there):
        assert np.array_equal(image, pixels(webp / "images" / f"{names[i]}.webp")[..., 0])
        assert np.abs(image.astype(int) - pixels(jpg / "images" / f"{names[i]}.jpg")).max() <= 16
        assert np.array_equal(image, zipped[i]) and np.array_equal(image[..., None], held["images"][i])


def test_truncated_images_depend_on_number_and_class_alone(brief, tmp_path, capsys):
    some = predict(brief, tmp_path / "a", "--truncation", "0.5", "--num_images", "20", "--batch_size", "3")
    assert "truncation 0.5: there is no w, so z from a normal distribution cut at" in capsys.readouterr().out
    few = predict(brief, tmp_path / "b", "--truncation", "0.5", "--seeds", "17,4")
    for path in (few / "images").iterdir():
        assert path.read_bytes() == (some / "images" / path.name).read_bytes()
    gan = load(brief)
    gan.generator_ema = Truncated(gan.generator_ema, 0.5)
    images = to_uint8(gan.sample(torch.tensor([4, 17]), torch.tensor([4, 7])))
    assert [np.array_equal(pixels(few / "images" / f"{i:06d}.png"), images[row, 0]) for row, i in ((0, 4), (1, 17))]


@pytest.mark.parametrize(("format", "word"), [("jpg", "no transparency"), ("zip", "devices 1"), ("npz", "devices 1")])
def test_a_format_that_cannot_hold_the_images_is_refused(format, word, tmp_path):
    same = SimpleNamespace(broadcast=lambda value: value)
    data = SimpleNamespace(channels=4)
    trainer = SimpleNamespace(is_global_zero=True, world_size=2, strategy=same, datamodule=data)
    with pytest.raises(ValueError, match=word):
        PredictionWriter(str(tmp_path / "out"), format=format).on_predict_start(trainer, None)
    assert not (tmp_path / "out").exists()
