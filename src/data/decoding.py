"""Pixels of one image file, in 8 bits."""

import re
import sys
from math import prod
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from src.data.formats import opened, orientation, raw_mode

BITS, PHOTOMETRIC, PLANES = 258, 262, 284  # tags of a TIFF; PLANES 2 is a plane for each colour
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# libtiff gives samples in the order of the machine; of these, Pillow would swap the bytes once more.
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


class Levels(NamedTuple):
    """What an image deeper than 8 bits makes of its depth: the highest level that it has, and the one that is white."""

    peak: float
    white: float


def decode(
    file: BinaryIO, image_size: tuple[int, int], channels: int, resize: str, levels: int | None = None
) -> tuple[np.ndarray, Levels | None]:
    """Decode one image file upright, first picture, to 8 bits.

    What is deeper is scaled from 0 (black) to white: `levels` where it is given, else the highest value of the file's
    own depth, 65,535 for integers of 32 bits and 255 for floating point numbers. Transparent pixels are laid on white
    for 1 and 3 channels; grey is the luma of ITU-R 601. Colour profiles are not applied.

    Args:
        file: an open image file.
        image_size: (height, width) wanted.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and straight alpha, opaque where the file has none).
        resize: "crop" cuts the largest centred box of the wanted aspect, "stretch" takes the whole image.
        levels: the value that is white in files deeper than 8 bits; at least 1.

    Returns:
        uint8 (C, height, width); and the levels of a file deeper than 8 bits.

    Raises:
        ValueError: it cannot be read as `levels` says, or at all; Pillow raises nearly anything else.
    """
    with opened(file) as image:
        turn = TURNS.get(orientation(image)) if image.format != "TIFF" else None  # Pillow turns a TIFF as it loads
        deep = deep_samples(image, file)
        if deep:
            image, used = flattened(image, *deep, levels)
        elif levels and is_cut(image):
            raise ValueError("Pillow cuts its colours to 8 bits, too late for --data.levels: convert it to PNG")
        else:
            image, used = shallow(image), None
        if turn is not None:
            image = image.transpose(turn)
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    height, width = image_size
    if resize == "crop":
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    else:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1), used


def deep_samples(image: Image.Image, file: BinaryIO) -> tuple[np.ndarray, int] | None:
    """Samples of an image deeper than 8 bits as the file has them; Pillow itself would cut those of colours to 8.

    Args:
        image: as `opened` gives it, not loaded yet.
        file: what it was opened from.

    Returns:
        Samples (H, W, 1 to 4), the last of 2 or 4 being alpha, and the value that is white. None: at most 8 bits.

    Raises:
        ValueError: Pillow would misread it.
    """
    raw, tags = raw_mode(image), image.tag_v2 if image.format == "TIFF" else {}
    codec, _, offset, arguments = image.tile[0] if image.tile else ("", None, 0, None)
    bits, apart = tags.get(BITS, (16,))[0], tags.get(PLANES) == 2
    white = 255 if image.mode == "F" else 2 ** min(bits, 16) - 1
    if apart and bits == 16 and ";16" not in raw:
        raise ValueError("Pillow misreads uncompressed planes of 16 bits: convert it to PNG")
    if codec == "libtiff" and raw in NATIVE:
        unpack_as(image, NATIVE[raw])
    if re.fullmatch("(RGBX?|RGBA);16[LBN]", raw) and not apart:
        high = np.asarray(image, np.uint16)
        with opened(file) as again:
            unpack_as(again, raw[:-1] + OTHER_BYTE[raw[-1]])
            return 256 * high + np.asarray(again), white
    if raw == "LA;16B":
        unpack_as(image, "RGBA")  # four bytes a pixel
        return np.ascontiguousarray(image).view(">u2"), white
    if codec == "ppm" and arguments[1] > 255 and image.mode in ("I", "RGB"):
        shape = (image.height, image.width, len(image.getbands()))
        file.seek(offset)
        return np.frombuffer(file.read(2 * prod(shape)), ">u2", prod(shape)).reshape(shape), arguments[1]
    if image.mode[0] not in "IF":
        return None
    samples = np.asarray(image)[..., None]
    if codec == "ppm_plain":  # scaled by Pillow
        return samples * (arguments[1] / white), arguments[1]
    if raw == "I;32N":  # unsigned, unlike Pillow's integers
        samples = samples.view(np.uint32)
    return samples, white // 2 if raw in ("I;16S", "I;16BS") else white


def flattened(image: Image.Image, samples: np.ndarray, white: float, levels: int | None) -> tuple[Image.Image, Levels]:
    """An image of 8 bits, in grey or RGB, with alpha where it has transparency, and the levels that it had.

    Args:
        image: what the samples are of.
        samples: (H, W, 1 to 4), the last of 2 or 4 being alpha.
        white: the value that is white by the file's own depth.
        levels: the value that the user wants to be white, or None.

    Raises:
        ValueError: floating point levels are not finite, or leave open what is white.
    """
    if image.mode == "F" and not (np.isfinite(samples).all() and (levels or not 0 < samples.max() <= 1)):
        raise ValueError(
            "floating point levels must be finite, and reach from 0 to 255 or as far as --data.levels says"
        )
    white, alpha, key = levels or white, [], image.info.get("transparency")
    if samples.shape[-1] in (2, 4):
        samples, alpha = samples[..., :-1], [scaled(samples[..., -1:], 65535)]
    elif key is not None:  # of a PNG, compared at its own depth
        alpha = [np.where((samples == key).all(-1, keepdims=True), 0, 255).astype(np.uint8)]
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:  # white is 0
        samples = white - samples.astype(np.float64)
    pixels = np.concatenate([scaled(samples, white), *alpha], -1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return image, Levels(samples.max().item(), white)


def is_cut(image: Image.Image) -> bool:
    """Whether a file, not loaded yet, has colours deeper than 8 bits that Pillow gives in 8 alone."""
    codec, _, _, arguments = image.tile[0] if image.tile else ("", None, 0, None)
    deep_text = codec == "ppm_plain" and image.mode != "1" and arguments[1] > 255
    return deep_text or codec == "SGI16" or re.search(";16[LBN]", raw_mode(image)) is not None


def shallow(image: Image.Image) -> Image.Image:
    """An image of at most 8 bits in a mode that Pillow converts rightly.

    Args:
        image: as `opened` gives it, not loaded yet.
    """
    key, raw = image.info.get("transparency"), raw_mode(image)
    if image.format == "PNG" and raw in ("L;2", "L;4") and key is not None:  # Pillow scales all but the key
        top = 2 ** int(raw[-1]) - 1
        image.info["transparency"] = key % (top + 1) * (255 // top)
    image.load()
    if image.mode == "La":
        return image.convert("LA")
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    return image


def unpack_as(image: Image.Image, raw: str) -> None:
    """Let Pillow unpack the same bytes otherwise.

    Args:
        image: not loaded yet.
        raw: one of Pillow's raw modes, of as many bits a pixel.
    """
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in image.tile
    ]


def scaled(samples: np.ndarray, white: float) -> np.ndarray:
    """Levels from 0 to `white` as uint8."""
    return (samples.astype(np.float32) * np.float32(255 / white)).round().clip(0, 255).astype(np.uint8)
