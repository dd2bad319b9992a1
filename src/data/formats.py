"""Which image files are read, how they are recognised, and which way up they are shown."""

import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError, features

# Still pictures that Pillow decodes by itself. It knows more: for EPS, say, it runs another program. HEIF and JXL are
# here for when a plugin of Pillow has registered them.
SIGNED = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "QOI", "DDS", "ICO", "SGI")
SIGNED += ("HEIF", "JXL")
UNSIGNED = ("TGA", "PCX")  # nothing in the file says so for sure: they are recognised by their suffix
_suffixes = Image.registered_extensions()  # of those that this Pillow was built with, but for JPEG 2000
if not features.check("jpg_2000"):
    _suffixes = {suffix: name for suffix, name in _suffixes.items() if name != "JPEG2000"}
FORMATS = tuple(name for name in SIGNED + UNSIGNED if name in _suffixes.values())
SUFFIXES = tuple(sorted(suffix for suffix, name in _suffixes.items() if name in FORMATS))

CONVERT = "is {}, which is not read here: convert it to PNG"
FETCH = "is {} and no image: fetch it again"
# The first bytes of a file that could not be opened, and what is said of it.
SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"BM", "BMP"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000"),
    (rb"....ftyp(he[ivm]|mif1|msf1)", "HEIC"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "PSD"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?R", "Radiance HDR"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"%PDF", "PDF"),
    (rb"\s*(<\?xml.*)?<svg", "SVG"),
    (rb".{128}DICM", "DICOM"),
    (rb"\s*<(!doctype )?html", "a web page"),
    (rb"version https://git-lfs", "a Git LFS pointer"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "a video"),
)
NO_IMAGES = ("a web page", "a Git LFS pointer", "a video")
TEXTS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")  # chunks of a PNG that may hold an orientation


def opened(file: BinaryIO) -> Image.Image:
    """Open an image file by its content, reading no pixels.

    Args:
        file: its suffix, `file.name`, counts only for formats without a signature.

    Returns:
        Pillow's image; for a PNG, `info` holds also what lies behind the pixels.

    Raises:
        ValueError: it is in none of `FORMATS`, or damaged.
    """
    suffix = Path(str(getattr(file, "name", ""))).suffix.lower()
    formats = [name for name in FORMATS if name not in UNSIGNED or _suffixes.get(suffix) == name]
    formats.remove("MPO")  # several pictures in one JPEG, which is what opens it
    try:
        behind = b"".join(texts_behind_the_pixels(file))
        image = Image.open(file, formats=formats)
        if behind:
            position = file.tell()
            file.seek(0)
            header = file.read(8 + 25)  # signature and IHDR
            image.info.update(Image.open(io.BytesIO(header + behind + chunk(b"IDAT", b"")), formats=["PNG"]).info)
            file.seek(position)
    except UnidentifiedImageError as error:
        file.seek(0)
        raise ValueError(what_it_is(file.read(1000))) from error
    return image


def what_it_is(head: bytes) -> str:
    """What is said of a file that cannot be opened.

    Args:
        head: its first 1,000 bytes, or all of a shorter one.
    """
    if not head:
        return "is empty: fetch it again"
    for pattern, name in SIGNATURES:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            if name in FORMATS:
                return f"is {name}, damaged or of a kind that Pillow does not read: fetch it again, or convert it"
            return (FETCH if name in NO_IMAGES else CONVERT).format(name)
    return "is no image that Pillow knows"


def texts_behind_the_pixels(file: BinaryIO) -> Iterator[bytes]:
    """Chunks of a PNG that may hold an orientation and lie where a header read would not see them; nothing is decoded.

    Args:
        file: of any format; only a PNG yields something.
    """
    file.seek(0)
    behind = False
    if file.read(8) == b"\x89PNG\r\n\x1a\n":
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            behind |= head[4:] == b"IDAT"
            wanted = behind and head[4:] in TEXTS
            length = int.from_bytes(head[:4], "big")
            if wanted:
                yield chunk(head[4:], file.read(length))
            file.seek(4 if wanted else length + 4, io.SEEK_CUR)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def raw_mode(image: Image.Image) -> str:
    """How the samples of an opened image lie in the file, in the words of Pillow: "RGB;16B"; empty where it says none.

    Args:
        image: not loaded yet.
    """
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def orientation(image: Image.Image) -> int:
    """How an image is stored, 1 (upright) to 8: its EXIF, a raw EXIF profile where there is none, then its XMP.

    Other values, and what cannot be parsed, count as upright, as viewers take them.

    Args:
        image: as `opened` gives it, not loaded yet.
    """
    try:  # PNG's own method would decode the pixels to look behind them
        value = Image.Image.getexif(image).get(0x0112, 1)
    except Exception:  # Pillow raises nearly anything on damaged EXIF
        return 1
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """The (height, width) of an image as it is shown.

    Args:
        image: as `opened` gives it, not loaded yet.
    """
    # Pillow turns a TIFF by its EXIF, but not by its XMP, before anything is loaded.
    width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
    return (width, height) if orientation(image) >= 5 else (height, width)
