"""Pixels of one image file, in 8 bits."""

import re
import sys
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from src.data.formats import opened, orientation, raw_mode

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
        deep = deep_samples(image, file, levels)
        used = None
        if deep:
            samples, alpha, white = deep
            used = Levels(samples.max().item(), white)
            pixels = scaled(samples, white)
            if alpha is not None:
                pixels = np.concatenate([pixels, alpha], -1)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        else:
            image = shallow(image)
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


def deep_samples(
    image: Image.Image, file: BinaryIO, levels: int | None
) -> tuple[np.ndarray, np.ndarray | None, float] | None:
    """Samples of an image deeper than 8 bits as the file has them; Pillow itself would cut those of colours to 8.

    Args:
        image: as `opened` gives it, not loaded yet.
        file: what it was opened from.
        levels: the value that is white, or None for what the file itself says.

    Returns:
        Samples (H, W, 1 or 3), alpha uint8 (H, W, 1) or None, and the value that is white. None: at most 8 bits.

    Raises:
        ValueError: Pillow cannot read so many bits, or floating point levels that leave open what is white.
    """
    raw, tags = raw_mode(image), image.tag_v2 if image.format == "TIFF" else {}
    codec = image.tile[0].codec_name if image.tile else ""
    maxval = image.tile[0].args[1] if codec.startswith("ppm") else 255
    bits, apart = tags.get(258, (16,))[0], tags.get(284) == 2  # a plane for each colour
    white = 2 ** min(bits, 16) - 1
    if apart and bits == 16 and ";16" not in raw:
        raise ValueError("Pillow misreads uncompressed planes of 16 bits: convert it to PNG")
    if codec == "libtiff" and raw in NATIVE:
        unpack_as(image, NATIVE[raw])
    if re.fullmatch("(RGBX?|RGBA);16[LBN]", raw) and not apart:
        high = np.asarray(image, np.uint16)
        with opened(file) as again:
            unpack_as(again, raw[:-1] + OTHER_BYTE[raw[-1]])
            samples = 256 * high + np.asarray(again)
    elif raw == "LA;16B":
        unpack_as(image, "RGBA")  # four bytes a pixel
        samples = np.ascontiguousarray(image).view(">u2")
    elif codec == "ppm" and maxval > 255 and image.mode in ("I", "RGB"):
        shape = (image.height, image.width, len(image.getbands()))
        file.seek(image.tile[0].offset)
        samples, white = np.frombuffer(file.read(2 * np.prod(shape)), ">u2").reshape(shape), maxval
    elif image.mode[0] in "IF":
        samples = np.asarray(image)[..., None]
        if codec == "ppm_plain":  # scaled to 65,535 by Pillow
            samples, white = samples * (maxval / white), maxval
        elif raw == "I;32N":  # unsigned, unlike Pillow's integers
            samples = samples.view(np.uint32)
        elif raw in ("I;16S", "I;16BS"):
            white = 32767
    else:
        if levels and (re.search(";16[LBN]", raw) or codec == "SGI16" or maxval > 255):
            raise ValueError("Pillow cuts its colours to 8 bits, too late for --data.levels: convert it to PNG")
        return None
    if image.mode == "F":
        white = 255
        if not np.isfinite(samples).all() or (not levels and 0 < samples.max() <= 1):
            raise ValueError(
                "floating point levels must be finite, and reach from 0 to 255 or as far as --data.levels says"
            )
    white, alpha, key = levels or white, None, image.info.get("transparency")
    if samples.shape[-1] in (2, 4):
        samples, alpha = samples[..., :-1], scaled(samples[..., -1:], 65535)
    elif key is not None:  # of a PNG, compared at its own depth
        alpha = np.where((samples == key).all(-1, keepdims=True), 0, 255).astype(np.uint8)
    return white - samples.astype(np.float64) if tags.get(262) == 0 else samples, alpha, white  # 0 is white


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
