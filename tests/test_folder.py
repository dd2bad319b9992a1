"""Image folders: every format and mode, classes, the cache, and what goes wrong."""

import errno
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from fuzz import image_case
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from src.data import files as files_module
from src.data.folder import ImageFolder

NOISE = np.random.RandomState(0).randint(0, 256, (6, 5, 4)).astype(np.uint8)  # height 6, width 5
RGB, GREY = NOISE[..., :3], NOISE[..., 0]


def save(path, array_or_image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)


def folder(root, **options):
    return ImageFolder(str(root), cache_dir=str(root.parent / "cache"), **options)


def pixels(root, **options):
    data = folder(root, **options)
    data.prepare_data()
    data.setup("fit")
    return np.array(data.split("train")[0])


def one(tmp_path, name, array_or_image, channels, options=None, **data_options):
    save(tmp_path / "one" / name, array_or_image, **(options or {}))
    (image,) = pixels(tmp_path / "one", channels=channels, **data_options)
    return image.transpose(1, 2, 0).squeeze()


def close(image, expected, tolerance=1):
    return image.shape == expected.shape and np.abs(image.astype(float) - expected).max() <= tolerance


def error_of(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- formats and modes


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.TIF", "a.jfif", "a.JPEG", "a.gif", "a.ppm", "a.tga"])
@pytest.mark.parametrize("packed", [False, True])
def test_formats_by_their_suffix(tmp_path, name, packed):
    """In a folder and in a .zip; test_files.py has the pixels of every format."""
    smooth = np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None] * np.ones((1, 24, 3), np.uint8)
    path = tmp_path / "a" / name
    save(path, smooth, **({"quality": 95} if name in ("a.jfif", "a.JPEG") else {}))
    if packed:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(path, name)
    image = pixels(tmp_path / ("a.zip" if packed else "a"))[0].transpose(1, 2, 0)
    assert close(image, smooth, tolerance=6)


@pytest.mark.parametrize("late", [False, True])
def test_size_and_pixels_are_upright_wherever_the_orientation_lies(tmp_path, late):
    wide = np.zeros((8, 12), np.uint8)
    wide[:, :6] = 255
    way = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    content = io.BytesIO()
    Image.fromarray(wide).save(content, "png")
    content, place = content.getvalue(), -12 if late else 33  # before IEND, or behind IHDR
    chunk = len(way).to_bytes(4, "big") + b"eXIf" + way + zlib.crc32(b"eXIf" + way).to_bytes(4, "big")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(content[:place] + chunk + content[place:])
    assert np.array_equal(pixels(tmp_path / "a")[0, 0], np.rot90(wide, -1))


def test_levels_of_deep_images(tmp_path):
    """Grey of 12 bits in 16: said when it is decoded, not again from the cache, and white by an option."""
    levels = np.linspace(0, 4080, 30).round().astype(np.uint16).reshape(6, 5)
    save(tmp_path / "a" / "1.png", levels)
    save(tmp_path / "a" / "2.png", GREY)
    with pytest.warns(UserWarning, match="1 of 1 images deeper than 8 bits use levels up to 4,080 of 65,535, almost"):
        assert pixels(tmp_path / "a")[0].max() == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(tmp_path / "a")
        shown = pixels(tmp_path / "a", levels=4095)
    assert np.array_equal(shown[0, 0], (levels / 4095 * 255).round()) and np.array_equal(shown[1, 0], GREY)
    with pytest.warns(UserWarning, match="reach 4,080, and all above 1,000 is white: --data.levels 4080"):
        assert pixels(tmp_path / "a", levels=1000)[0].max() == 255
    assert "at least 1" in error_of(lambda: folder(tmp_path / "a", levels=0))


# ---- sizes


def test_crop_takes_the_centre_and_stretch_takes_all(tmp_path):
    bars = np.zeros((8, 24, 3), np.uint8)
    bars[:, :8, 0], bars[:, 8:16, 1], bars[:, 16:, 2] = 255, 255, 255
    crop = one(tmp_path / "crop", "a.png", bars, 3, image_size=8)
    assert (crop == [0, 255, 0]).all()
    stretch = one(tmp_path / "stretch", "a.png", bars, 3, image_size=[8, 12], resize="stretch")
    assert stretch.shape == (8, 12, 3)
    assert stretch[0, [0, 5, 11]].argmax(-1).tolist() == [0, 1, 2]


def test_not_square(tmp_path):
    save(tmp_path / "a" / "x.png", RGB)
    data = folder(tmp_path / "a")
    assert (data.image_size, data.channels) == ((6, 5), 3)
    assert np.array_equal(pixels(tmp_path / "a")[0].transpose(1, 2, 0), RGB)
    assert pixels(tmp_path / "a", image_size=[3, 10]).shape == (1, 3, 3, 10)
    assert pixels(tmp_path / "a", image_size=4).shape == (1, 3, 4, 4)


def test_reduction_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    assert close(one(tmp_path, "a.png", stripes, 1, image_size=8), np.full((8, 8), 100), tolerance=8)


def test_sizes_that_differ_ask_for_one(tmp_path):
    save(tmp_path / "a" / "x.png", RGB)
    save(tmp_path / "a" / "y.png", np.zeros((9, 3, 3), np.uint8))
    message = error_of(lambda: folder(tmp_path / "a"))
    assert "height 6 to 9" in message and "width 3 to 5" in message and "--data.image_size" in message
    assert folder(tmp_path / "a", image_size=4).channels == 3
    assert "image_size 0" in error_of(lambda: folder(tmp_path / "a", image_size=0))


@pytest.mark.parametrize(
    ("arrays", "channels"),
    [([GREY, GREY], 1), ([GREY, RGB], 3), ([NOISE, RGB], 3), ([NOISE, NOISE], 4), ([NOISE, GREY], 3)],
)
def test_channels_are_found(tmp_path, arrays, channels):
    for i, array in enumerate(arrays):
        save(tmp_path / "a" / f"{i}.png", array)
    assert folder(tmp_path / "a").channels == channels


# ---- classes and layouts


def tree(root, names):
    for i, name in enumerate(names):
        save(root / name, np.full((4, 4), i, np.uint8))


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["b/1.png", "a/1.png", "a/2.png", "b.b/1.png"], ["a", "b", "b.b"], [0, 0, 2, 1]),  # b.b/1 sorts before b/1
        (["top/in/b/1.png", "top/in/a/deep/er/1.png", "top/in/a/2.png"], ["a", "b"], [0, 0, 1]),
        (["1.png", "2.png"], [], None),
        (["only/1.png", "only/2.png"], [], None),
        (["a/1.png", "b/2.png", "3.png"], [], None),
    ],
)
def test_classes_are_the_folders(tmp_path, names, classes, labels):
    tree(tmp_path / "a", names)
    (tmp_path / "a" / "empty").mkdir()
    data = folder(tmp_path / "a")
    data.setup("fit")
    assert data.class_names == classes and data.num_classes == len(classes)
    images, found = data.split("train")
    assert found is None if labels is None else found.tolist() == labels
    assert images[:, 0, 0, 0].tolist() == [names.index(name) for name in sorted(names)]


def test_labels_can_be_hidden(tmp_path):
    tree(tmp_path / "a", ["a/1.png", "b/1.png"])
    data = folder(tmp_path / "a", labels=False)
    data.setup("fit")
    assert data.num_classes == 0 and data.split("train")[1] is None


def test_what_is_ignored(tmp_path):
    tree(tmp_path / "a", ["a.png", ".hidden.png", ".git/b.png", "__MACOSX/c.png"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert folder(tmp_path / "a").files["train"].names == ["a.png"]


def test_links_are_followed_once(tmp_path):
    tree(tmp_path / "elsewhere", ["1.png"])
    tree(tmp_path / "a", ["a/1.png"])
    (tmp_path / "a" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "a" / "a")
    assert folder(tmp_path / "a").files["train"].names == ["a/1.png", "b/1.png"]


def test_one_thread_at_a_time_reads_a_zip(tmp_path, monkeypatch):
    """Where two do, Python 3.12 and 3.13 give them wrong bytes, and their images would be left out as unreadable."""
    tree(tmp_path / "a", [f"{number}.png" for number in range(20)])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "a").iterdir():
            archive.write(path, path.name)
    reading, most, read = [], [], zipfile.ZipFile.read

    def slow(*args):
        reading.append(1)
        most.append(len(reading))
        time.sleep(0.002)
        content = read(*args)
        reading.pop()
        return content

    monkeypatch.setattr(zipfile.ZipFile, "read", slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    data = folder(tmp_path / "a.zip")
    data.prepare_data()
    assert len(most) >= 20 and max(most) == 1


@pytest.mark.parametrize("prefix", ["", "top/"])
def test_zip_equals_folder(tmp_path, prefix):
    tree(tmp_path / "a", ["x/1.png", "x/2.png", "y/1.png", "__MACOSX/x/1.png"])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "a").rglob("*"):
            archive.write(path, prefix + path.relative_to(tmp_path / "a").as_posix())
    unpacked, packed = folder(tmp_path / "a"), folder(tmp_path / "a.zip")
    for data in unpacked, packed:
        data.prepare_data()
        data.setup("fit")
    assert packed.class_names == unpacked.class_names == ["x", "y"]
    assert packed.image_size == unpacked.image_size
    for a, b in zip(packed.split("train"), unpacked.split("train"), strict=True):
        assert np.array_equal(a, b)


def test_test_images(tmp_path):
    tree(tmp_path / "a", ["cat/1.png", "dog/1.png"])
    tree(tmp_path / "t", ["dog/1.png", "dog/2.png"])
    data = folder(tmp_path / "a", test_root=str(tmp_path / "t"))
    data.prepare_data()
    assert data.split("test")[1].tolist() == [1, 1] and data.num_images("test") == 2
    assert "only train" in error_of(lambda: folder(tmp_path / "a").split("test"))
    tree(tmp_path / "u", ["cow/1.png", "dog/2.png"])
    assert "unknown: cow" in error_of(lambda: folder(tmp_path / "a", test_root=str(tmp_path / "u")))
    tree(tmp_path / "flat", ["1.png"])
    assert "--data.labels false" in error_of(lambda: folder(tmp_path / "a", test_root=str(tmp_path / "flat")))
    assert folder(tmp_path / "a", test_root=str(tmp_path / "flat"), labels=False).num_classes == 0


# ---- cache


@pytest.fixture
def decodings(monkeypatch):
    """Counts the decoded files."""
    counter, decode = SimpleNamespace(count=0), files_module.decode

    def counting(*arguments):
        counter.count += 1
        return decode(*arguments)

    monkeypatch.setattr(files_module, "decode", counting)
    return counter


def test_files_are_decoded_once(tmp_path, decodings):
    tree(tmp_path / "a", ["1.png", "2.png", "3.png"])
    first = pixels(tmp_path / "a")
    assert decodings.count == 3
    assert np.array_equal(pixels(tmp_path / "a"), first)
    assert decodings.count == 3
    (tmp_path / "a").rename(tmp_path / "moved")
    pixels(tmp_path / "moved")
    assert decodings.count == 3
    data = folder(tmp_path / "moved")
    data.setup("fit")
    assert isinstance(data.split("train")[0], np.memmap) and not data.split("train")[0].flags.writeable


def test_change_of_a_file_or_an_option_decodes_again(tmp_path, decodings):
    tree(tmp_path / "a", ["1.png", "2.png"])
    pixels(tmp_path / "a")
    os.utime(tmp_path / "a" / "1.png", ns=(0, 0))
    pixels(tmp_path / "a")
    assert decodings.count == 4
    (tmp_path / "a" / "2.png").rename(tmp_path / "a" / "3.png")
    pixels(tmp_path / "a")
    assert decodings.count == 6
    for options in ({"image_size": 3}, {"channels": 3}, {"image_size": 3, "resize": "stretch"}):
        before = decodings.count
        pixels(tmp_path / "a", **options)
        assert decodings.count == before + 2


def test_changed_zip_is_decoded_again(tmp_path):
    for level in (10, 20):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(buffer, "bmp")  # same size, other content
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("1.bmp"), buffer.getvalue())
        os.utime(tmp_path / "a.zip", ns=(0, 0))
        assert (pixels(tmp_path / "a.zip") == level).all()


def test_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path):
    tree(tmp_path / "a", [f"{i}.png" for i in range(40)])
    cache = tmp_path / "cache"
    slow = (
        "import sys, time; from src.data import files; from src.data.folder import ImageFolder\n"
        "decode = files.decode\n"
        "def slow(*arguments): time.sleep(0.5); return decode(*arguments)\n"
        "files.decode = slow\n"
        "ImageFolder(sys.argv[1], cache_dir=sys.argv[2]).prepare_data()"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path / "a"), str(cache)])
    deadline = time.monotonic() + 60
    while not list(cache.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cache.glob("*.part")) and not list(cache.glob("*.npy"))
    tree(tmp_path / "other", ["1.png"])
    assert pixels(tmp_path / "other").shape[0] == 1
    assert not list(cache.glob("*.part"))
    assert pixels(tmp_path / "a")[:, 0, 0, 0].tolist() == [
        int(name[:-4]) for name in folder(tmp_path / "a").files["train"].names
    ]


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    tree(tmp_path / "a", ["1.png"])
    monkeypatch.setattr(files_module, "decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pixels(tmp_path / "a")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".npy", ".part")]


def test_order_does_not_depend_on_the_threads(tmp_path, monkeypatch):
    decode = files_module.decode

    def unsteady(*arguments):
        result = decode(*arguments)
        time.sleep(0.002 * (int(result[0][0, 0, 0]) % 3))
        return result

    monkeypatch.setattr(files_module, "decode", unsteady)
    monkeypatch.setattr(files_module.os, "cpu_count", lambda: 7)
    names = [f"{i:03}.png" for i in range(60)]
    tree(tmp_path / "a", names)
    assert pixels(tmp_path / "a")[:, 0, 0, 0].tolist() == list(range(60))


# ---- what goes wrong


def test_unreadable_files_are_named_and_skipped(tmp_path):
    tree(tmp_path / "a", [f"{label}/{i}.png" for label in "xy" for i in range(10)])
    (tmp_path / "a" / "x" / "3.png").write_bytes(b"not an image")
    truncated = tmp_path / "a" / "y" / "0.png"
    truncated.write_bytes(truncated.read_bytes()[:45])
    (tmp_path / "a" / "y" / "5.png").unlink()
    (tmp_path / "a" / "y" / "5.png").symlink_to("nowhere.png")
    with pytest.warns(UserWarning) as caught:
        data = folder(tmp_path / "a", max_bad=0.2)
        data.prepare_data()
    (message,) = [str(w.message) for w in caught if "unreadable" in str(w.message)]
    assert "3 unreadable of 20" in message and "\n" not in message
    assert all(name in message for name in ("x/3.png", "y/0.png", "y/5.png"))
    data.setup("fit")
    images, labels = data.split("train")
    assert images[:, 0, 0, 0].tolist() == [i for i in range(20) if i not in (3, 10, 15)]
    assert np.bincount(labels).tolist() == [9, 8]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder(tmp_path / "a", max_bad=0.2).prepare_data()  # from the cache, silently
    assert "x/3.png" in error_of(lambda: folder(tmp_path / "a", max_bad=0.1).prepare_data())  # also from the cache


def test_too_many_unreadable_files_stop(tmp_path):
    tree(tmp_path / "a", [f"{i:03}.png" for i in range(100)])
    for i in range(30, 50):
        (tmp_path / "a" / f"{i:03}.png").write_bytes(b"not an image")
    message = error_of(lambda: pixels(tmp_path / "a"))
    assert "20 unreadable of 100 files (20.00%)" in message and "--data.max_bad" in message
    assert "039.png" in message and "040.png" not in message and "and 10 more" in message
    assert not list((tmp_path / "cache").glob("*.npy"))
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(b"not an image")
    assert "can be read" in error_of(lambda: pixels(tmp_path / "a"))
    assert "none" in error_of(lambda: pixels(tmp_path / "a", image_size=4, channels=1, max_bad=1.0))


def test_decompression_bomb_is_unreadable(tmp_path, monkeypatch):
    tree(tmp_path / "a", ["1.png", "2.png"])
    save(tmp_path / "a" / "bomb.png", np.zeros((100, 100), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(UserWarning, match="DecompressionBomb"):
        assert len(pixels(tmp_path / "a", max_bad=0.5)) == 2


def test_the_content_counts_and_not_the_suffix(tmp_path):
    save(tmp_path / "a" / "x.jpg", RGB, format="PNG")
    assert np.array_equal(pixels(tmp_path / "a")[0].transpose(1, 2, 0), RGB)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 2)])
def test_extreme_shapes(tmp_path, shape):
    image = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    assert np.array_equal(one(tmp_path, "a.png", image, 1), image.squeeze())
    assert pixels(tmp_path / "one", image_size=[3, 4]).shape == (1, 1, 3, 4)


def test_what_only_looks_like_an_image_file_is_skipped(tmp_path):
    tree(tmp_path / "a", ["1.png", "2.png"])
    os.mkfifo(tmp_path / "a" / "pipe.png")  # opening it would wait for ever
    (tmp_path / "a" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "loop.png").symlink_to("loop.png")
    (tmp_path / "a" / "nothing.png").write_bytes(b"")
    (tmp_path / "a" / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.warns(UserWarning, match="5 unreadable of 7") as caught:
        assert len(pixels(tmp_path / "a", max_bad=0.8)) == 2
    (message,) = [str(w.message) for w in caught if "unreadable" in str(w.message)]
    assert message.count("not a regular file") == 2 and "program.png (is PostScript" in message


NAMES = ["猫", "кошка", "🐈", "قطة", "a\nb", "c\x1b[31m", " ", "x" * 251, os.fsdecode(b"\xff\xfe")]


def test_names_of_any_script_and_of_none(tmp_path):
    tree(tmp_path / "a", [f"{label}/{name}.png" for label in NAMES for name in NAMES])
    data = folder(tmp_path / "a")
    data.prepare_data()
    assert data.class_names == sorted(NAMES) and np.bincount(data.split("train")[1]).tolist() == [9] * 9
    for label in NAMES:
        (tmp_path / "a" / label / f"{label}.png").write_bytes(b"not an image")
    with pytest.warns(UserWarning) as caught:
        folder(tmp_path / "a", max_bad=0.5).prepare_data()
    (message,) = [str(w.message) for w in caught if "9 unreadable" in str(w.message)]
    assert message.isprintable() and "猫/猫.png" in message and r"a\nb/a\nb.png" in message


@pytest.fixture
def packed(tmp_path):
    """Writes a .zip of one image under several names, and of other files."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "png")

    def pack(*names, **others):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, buffer.getvalue())
            for name, content in others.items():
                archive.writestr(f"{name}.png", content, zipfile.ZIP_DEFLATED)
        return tmp_path / "a.zip"

    return pack


def test_paths_in_a_zip_lead_nowhere_else(tmp_path, packed, monkeypatch):
    before = {path.name for path in tmp_path.parent.iterdir()}
    with pytest.warns(UserWarning, match="left out 1 files of .*a.zip whose names lead out of it .../../up.png"):
        data = folder(packed("../../up.png", "/abs/1.png", "/other/2.png", "C:\\x\\3.png", "in/4.png"))
    data.prepare_data()
    assert data.num_images("train") == 4 and "../../up.png" not in data.files["train"].names
    assert {path.name for path in tmp_path.parent.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "cache"}
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # the other processes do not say it again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder(packed("../../up.png", "in/4.png"))


def test_names_twice_in_a_zip_are_refused(packed):
    with pytest.warns(UserWarning, match="Duplicate name"):  # of the archive's writer
        root = packed("a/1.png", "b/1.png", "a/1.png", "a/1.png")
    message = error_of(lambda: folder(root))
    assert "1 names more than once (a/1.png)" in message and "name the folder" in message


def test_bombs_and_locks_in_a_zip(tmp_path, packed, monkeypatch):
    root = packed("1.png", bomb=bytes(10_000_000))
    monkeypatch.setattr(files_module, "MAX_BYTES", 1_000_000)
    with pytest.warns(UserWarning, match="bomb.png .*10 MB unpacked, more than 1"):
        assert len(pixels(root, max_bad=0.5)) == 1
    encrypted = bytearray(packed("1.png").read_bytes())
    encrypted[6] |= 1  # the flag in the file's own header, and in the directory at the end
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    root.write_bytes(encrypted)
    assert "encrypted" in error_of(lambda: folder(root))
    assert "no image" in error_of(lambda: folder(packed("inner.zip", "notes.txt")))


def test_damaged_zips_are_one_line(tmp_path, packed):
    content = packed("a/1.png", "b/2.png").read_bytes()
    (tmp_path / "a.zip").write_bytes(content[:-30])
    assert "neither a folder nor a .zip" in error_of(lambda: folder(tmp_path / "a.zip"))
    directory = content.index(b"PK\x01\x02")
    (tmp_path / "a.zip").write_bytes(content[: directory + 4] + b"\xff" * 40 + content[directory + 44 :])
    assert "fetch or pack it again" in error_of(lambda: folder(tmp_path / "a.zip"))


def test_mutated_images_and_archives_are_read_skipped_or_refused(tmp_path):
    outcomes = {image_case(random.Random(seed), tmp_path)[1] for seed in range(150)}
    assert outcomes == {"read", "skipped", "refused"}


def test_too_small_disk_is_noticed_before_decoding(tmp_path, monkeypatch, decodings):
    tree(tmp_path / "a", ["1.png"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    message = error_of(lambda: pixels(tmp_path / "a", image_size=1000, channels=3), OSError)
    assert "3 MB needed" in message and "0 MB free" in message and "--data.cache_dir" in message
    assert decodings.count == 0


def test_disk_that_fills_up_while_decoding(tmp_path, monkeypatch):
    tree(tmp_path / "a", ["1.png"])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full)
    assert "--data.cache_dir" in error_of(lambda: pixels(tmp_path / "a"), OSError)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".npy", ".part")]


def test_wrong_roots(tmp_path):
    assert "does not exist" in error_of(lambda: folder(tmp_path / "none"), FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert "no image" in error_of(lambda: folder(tmp_path / "empty"))
    (tmp_path / "file.tar").write_text("no zip")
    assert "neither a folder nor a .zip" in error_of(lambda: folder(tmp_path / "file.tar"))


def test_facts_need_no_decoding(tmp_path, decodings):
    tree(tmp_path / "a", ["x/1.png", "y/1.png"])
    data = folder(tmp_path / "a")
    assert (data.image_size, data.channels, data.num_classes) == ((4, 4), 1, 2)
    assert decodings.count == 0 and not (tmp_path / "cache").exists()


def test_folders_that_are_alike_but_for_their_pixels_are_told_apart(tmp_path):
    """As archives of files with one date unpack to them."""
    for number, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 100 + number).save(tmp_path / name / "a.bmp")
        os.utime(tmp_path / name / "a.bmp", (0, 0))
    found = [ImageFolder(str(tmp_path / name), cache_dir=str(tmp_path / "cache")) for name in ("one", "other")]
    assert [data.split("train")[0].max() for data in found] == [100, 101]
