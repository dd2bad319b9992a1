"""Mutated images and configurations, against the promise that bad input is skipped by name or ends in one line.

`python tests/fuzz.py {images,options} SECONDS SEED` writes what breaks the promise to `fuzz-findings/`; `make fuzz`.
"""

import contextlib
import io
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from src.cli import main
from src.data.folder import ImageFolder

ROOT = Path(__file__).parent.parent
LONGEST = 20  # seconds of computing that one input may take; of waiting, ten times as many
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]


class Hang(BaseException):
    """An input took longer than `LONGEST`."""


# ------------------------------------------------------------------------------------------------------ images


def pictures() -> list[tuple[str, bytes]]:
    """Suffix and content of small files of every format and mode."""
    noise = np.random.RandomState(0).randint(0, 256, (9, 7, 4)).astype(np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("P")
    deep, real = Image.fromarray(noise[..., 0].astype(np.uint16) * 257), Image.fromarray(noise[..., 0].astype("f4"))
    exif = Image.Exif()
    exif[0x0112] = 6
    several = {"save_all": True, "append_images": [rgb.rotate(90), rgb]}
    kinds = [(".png", image, {}) for image in (rgba, rgb, grey, palette, deep, grey.convert("1"), grey.convert("LA"))]
    kinds += [(".png", palette, {"transparency": 0}), (".png", rgb, {"exif": exif}), (".png", rgb, several)]
    kinds += [(".jpg", image, {}) for image in (rgb, grey, rgb.convert("CMYK"))]
    kinds += [(".jpg", rgb, {"progressive": True, "exif": exif}), (".jpg", rgb, {"subsampling": 2, "quality": 5})]
    kinds += [(".webp", rgba, {"lossless": True}), (".webp", rgb, {"exif": exif}), (".webp", rgb, several)]
    kinds += [(".tiff", image, {}) for image in (rgba, grey, palette, deep, real, rgb.convert("LAB"))]
    kinds += [(".tiff", rgb, {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    kinds += [(".tiff", grey.convert("1"), {"compression": "group4"}), (".tiff", rgb, several | {"exif": exif})]
    kinds += [(".bmp", image, {}) for image in (rgb, grey, palette, rgba)]
    kinds += [(".gif", palette, {}), (".gif", palette, several | {"transparency": 0})]
    kinds += [(".png", grey, {"transparency": 7}), (".png", deep, {"transparency": 257}), (".mpo", rgb, several)]
    kinds += [
        (suffix, image, {}) for suffix in (".avif", ".jp2", ".dds", ".ico", ".sgi", ".tga") for image in (rgba, rgb)
    ]
    kinds += [
        (".tga", palette, {"compression": "tga_rle"}),
        (".pcx", palette, {}),
        (".pcx", rgb, {}),
        (".qoi", rgba, {}),
    ]
    kinds += [
        (".avif", rgb, several),
        (".avif", rgb, {"exif": exif.tobytes()}),
        (".jp2", deep, {}),
        (".tiff", real, {"compression": "tiff_lzw"}),
    ]
    kinds += [(".ppm", image, {}) for image in (rgb, grey, deep, real, grey.convert("1"))]
    files = []
    for suffix, image, options in kinds:
        buffer = io.BytesIO()
        image.copy().save(buffer, Image.registered_extensions()[suffix], **options)
        files.append((suffix, buffer.getvalue()))
    files += [(".ppm", b"P%d 3 3 1000 " % magic + b"12 345 " * 27) for magic in (2, 3, 5, 6)]
    for colour, transparent in ((0, False), (0, True), (2, False), (2, True), (4, False), (6, False)):
        files.append((".png", deep_png(colour, transparent)))
    return files


def deep_png(colour: int, transparent: bool) -> bytes:
    """A PNG of 16 bits of any colour type, which Pillow cannot write, with its orientation behind the pixels."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    lines = b"".join(b"\0" + bytes(range(2 * samples * 4)) for _ in range(3))
    chunks = [(b"IHDR", bytes([0, 0, 0, 4, 0, 0, 0, 3, 16, colour, 0, 0, 0]))]
    chunks += [(b"tRNS", bytes(range(2 * samples)))] if transparent else []
    chunks += [(b"IDAT", zlib.compress(lines)), (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6" + bytes(6))]
    chunks += [(b"IEND", b"")]
    parts = (len(content).to_bytes(4, "big") + kind + content + bytes(4) for kind, content in chunks)
    return with_checksums(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def archives(files: list[tuple[str, bytes]]) -> list[bytes]:
    """Archives of the same files, stored and compressed."""
    result = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for number, (suffix, content) in enumerate(files[::9]):
                archive.writestr(f"{'ab'[number % 2]}/{number}{suffix}", content)
        result.append(buffer.getvalue())
    return result


def mutated(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to eight changes of a file: bits, numbers, cuts, copies, and parts of other files."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        start = chance.randrange(len(data) or 1)
        length = chance.choice([1, 2, 4, 16, 100])
        change = chance.randrange(7)
        if change == 0 and data:
            data[start] ^= 1 << chance.randrange(8)
        elif change == 1:
            size = chance.choice([1, 2, 4])
            number = chance.choice(NUMBERS) % 256**size
            data[start : start + size] = number.to_bytes(size, chance.choice(["big", "little"]))
        elif change == 2:
            del data[start : start + length]
        elif change == 3:
            data[start:start] = data[start : start + length] * chance.choice([1, 1, 50])
        elif change == 4:
            data[start : start + length] = chance.randbytes(length)
        elif change == 5 and chance.random() < 0.3:
            del data[start:]
        elif change == 6 and chance.random() < 0.3:
            other = chance.choice(others)
            data[start:] = other[chance.randrange(len(other)) :]
    return with_checksums(bytes(data)) if chance.random() < 0.7 else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG with the right checksum on every chunk, without which a decoder would not look further; others as is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    result, position = data[:8], 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position + 4 : position + 8 + length]
        result += data[position : position + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        position += 12 + length
    return result + data[position:]


def try_images(root: Path, **options) -> str:
    """Reads a folder or .zip as `--data ImageFolder` does; returns "read", "skipped" or "refused".

    Raises:
        Exception: anything else, which is a fault.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = ImageFolder(str(root), cache_dir=str(root.parent / "cache"), **options)
            data.prepare_data()
            images, labels = data.split("train")
        except (ValueError, OSError) as error:
            assert str(error)
            return "refused"
    assert images.dtype == np.uint8 and images.shape[1:] == (data.channels, *data.image_size)
    assert labels is None or len(labels) == len(images)
    np.asarray(images).sum()
    skipped = [str(w.message) for w in caught if "unreadable" in str(w.message)]
    assert len(skipped) == (len(images) < len(data.files["train"].names))
    assert all("\n" not in message and message.isprintable() for message in skipped)
    return "skipped" if skipped else "read"


def image_case(chance: random.Random, folder: Path) -> tuple[bytes, str]:
    """One mutated file, or one mutated archive, through the folder's reader."""
    chosen = {"channels": chance.choice([None, 1, 3, 4]), "image_size": chance.choice([None, 4, [3, 8]])}
    chosen |= {"max_bad": 1.0, "resize": chance.choice(["crop", "stretch"])}
    chosen |= {"levels": chance.choice([None, None, 1, 4095])}
    contents = [content for _, content in PICTURES]
    if chance.random() < 0.2:
        content = mutated(chance.choice(ARCHIVES), contents, chance)
        root = folder / "a.zip"
        root.write_bytes(content)
    else:
        suffix, content = chance.choice(PICTURES)
        content = mutated(content, contents, chance)
        root = folder / "a"
        root.mkdir(exist_ok=True)
        for old in root.iterdir():
            old.unlink()
        (root / f"1{suffix}").write_bytes(content)
        (root / "2.png").write_bytes(PICTURES[0][1])
    try:
        return content, try_images(root, **chosen)
    finally:
        for path in (folder / "cache").glob("*.npy"):
            path.unlink()


# --------------------------------------------------------------------------------------------------- configurations


VALUES = [
    None, True, False, 0, -1, 1, 2.5, -0.0, 10**30, float("nan"), float("inf"), "", " ", "x", "null", "none", "~", "{}",
    "[", "${x}", "a: b", "\0", "\x1b[31m", "é", "名", "🙂", "-", "--", "src", "src.", ".", "..",
    "src.objectives.losses.Hinge",
    "torch.nn.Linear", "os.system", "builtins.eval", "Adam", "R1", [], [1], ["x"], [[]], {}, {"x": 1}, {1: 2},
    {"class_path": "x"}, {"class_path": 3}, {"class_path": None}, {"init_args": {}}, {"class_path": "torch.optim.Adam"},
    {"class_path": "src.objectives.losses.Hinge", "init_args": 3}, {"class_path": "R1", "init_args": {"weight": "x"}},
    "1e400",
    "x" * 5000, "base.yaml", "/", "/dev/null", "0x10", "1_000", "2001-01-01", "!!python/none", "*x", "&x", "@x", "%x",
]  # fmt: skip


def places(node, above=()):
    """Paths of all entries of a configuration."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield (*above, key)
        yield from places(value, (*above, key))


def mutated_config(config: dict, chance: random.Random) -> dict:
    """One to three entries replaced, removed, renamed, moved or wrapped."""
    config = yaml.safe_load(yaml.safe_dump(config))  # no shared parts
    for _ in range(chance.choice([1, 1, 2, 3])):
        *above, key = chance.choice(list(places(config)) or [("x",)])
        parent = config
        for step in above:
            parent = parent[step]
        if not parent or key not in (parent if isinstance(parent, dict) else range(len(parent))):
            continue
        change = chance.randrange(6)
        if change < 2:
            parent[key] = deepcopy(chance.choice(VALUES))  # which another change may enter
        elif change == 2:
            del parent[key]
        elif change == 3 and isinstance(parent, dict):
            renamed = [f"{key}x", f"{key}+", str(key)[:-1], "class_path", "init_args", 3, None, ""]
            parent[chance.choice(renamed)] = parent[key]
        elif change == 4:
            parent[key] = [parent[key]] if chance.random() < 0.5 else {key: parent[key]}
        else:
            parent[key] = chance.choice([config.get("model"), config.get("data"), config.get("trainer")])
            config = yaml.safe_load(yaml.safe_dump(config)) if not cyclic(config) else {"trainer": {}}
    return config


def cyclic(node, above=()) -> bool:
    entries = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return id(node) in above or any(cyclic(entry, (*above, id(node))) for entry in entries)


def try_command(arguments: list[str]) -> str:
    """Runs one command line; returns "accepted", or "refused" if it ends in exactly one line.

    Raises:
        Exception: anything else, which is a fault.
    """
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
            code = None
        except SystemExit as stopped:
            code = stopped.code
    if code in (0, None):
        return "accepted"
    lines = [line for line in errors.getvalue().split("\n") if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) > len("error: "), errors.getvalue()[-2000:]
    return "refused"


def option_case(chance: random.Random, folder: Path) -> tuple[bytes, str]:
    """A mutated configuration, options, or both, parsed to the end by the real command line."""
    path = folder / "mutated.yaml"
    config = chance.choice(CONFIGS)
    kind = chance.randrange(3)
    content = yaml.safe_dump(mutated_config(config, chance) if kind < 2 else config, allow_unicode=True).encode()
    if kind == 0:
        content = mutated(content, [yaml.safe_dump(config).encode()], chance)
    path.write_bytes(content)
    options = []
    for _ in range(chance.randint(0, 1) if kind < 2 else chance.randint(1, 3)):
        place = ".".join(str(step) for step in chance.choice(PLACES) if step != "init_args")
        place += chance.choice(["", "", "", "", "+", ".", ".x", ".help", "x"])
        value = chance.choice(VALUES)
        value = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
        options += [f"--{place}={value}"] if chance.random() < 0.5 else [f"--{place}", value]
    default = str(ROOT / "configs" / "digits.yaml")  # what a mutation has removed is still there
    arguments = ["fit", "--config", default, "--config", str(path), *options, "--print_config"]
    record = content + b"\n# " + repr(options).encode()
    return record, try_command(arguments)


def fuzz(case, seconds: float, seed: int, findings: Path) -> int:
    """Runs cases until the time is over, each a function of (seed, its number); returns the number of faults."""

    def stop(*_):
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGPROF, stop)
    outcomes: Counter = Counter()
    faults: dict[str, str] = {}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < end:
            number = outcomes.total()
            record = b""
            signal.alarm(10 * LONGEST)
            signal.setitimer(signal.ITIMER_PROF, LONGEST)
            try:
                record, outcome = case(random.Random(f"{seed}/{number}"), Path(name))
            except (Exception, Hang):
                outcome = "fault"
                text = traceback.format_exc()
                faults.setdefault(re.sub(r"\d+", "", text[-300:]), f"case {number} of seed {seed}\n{text}")
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
            outcomes[outcome] += 1
    for number, text in enumerate(faults.values()):
        findings.mkdir(exist_ok=True)
        (findings / f"{case.__name__}-{seed}-{number}.txt").write_text(text)
        print(text)
    print(f"{case.__name__}, seed {seed}, {seconds:.0f} s: {dict(outcomes)}, {len(faults)} different faults")
    return len(faults)


PICTURES = pictures()
ARCHIVES = archives(PICTURES)
CONFIGS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").rglob("*.yaml"))]
PLACES = [place for config in CONFIGS for place in places(config)]

if __name__ == "__main__":
    kind, seconds, seed = sys.argv[1:]
    found = fuzz({"images": image_case, "options": option_case}[kind], float(seconds), int(seed), Path("fuzz-findings"))
    sys.exit(found > 0)
