"""One image file: pixels against the raw samples, whatever the format, the depth and the way they are stored."""

import io
import itertools
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image, features

from src.data.decoding import Levels, decode
from src.data.files import ImageFiles, remarks
from src.data.formats import FORMATS, SUFFIXES, opened, orientation, upright_size
from src.data.headers import read_headers

RANDOM = np.random.RandomState(0)
HEIGHT, WIDTH = 6, 5
NOISE = RANDOM.randint(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)


def rgba_of(content: bytes, name: str = "", levels: int | None = None) -> np.ndarray:
    """(H, W, 4) of a file, of the size that its header says."""
    file = io.BytesIO(content)
    file.name = name
    size = upright_size(opened(file))
    return decode(file, size, 4, "crop", levels)[0].transpose(1, 2, 0)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def eight(samples: np.ndarray, white: float) -> np.ndarray:
    return np.floor(samples.astype(float) * 255 / white + 0.5).clip(0, 255).astype(np.uint8)


def turned(array: np.ndarray, way: int) -> np.ndarray:
    """As the standard describes the eight orientations: where the stored first row and first column are shown."""
    shown = {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1]}
    side = array.swapaxes(0, 1)
    return (shown | {5: side, 6: side[:, ::-1], 7: side[::-1, ::-1], 8: side[::-1]})[way]


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


# ---- PNG, written here from known samples


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def lines(samples: np.ndarray, depth: int) -> bytes:
    """Rows of a PNG, filtered by none, the sample to the left, the row above, in turn."""
    result, above = b"", None
    step = max(1, samples.shape[2] * depth // 8)
    for number, row in enumerate(samples.reshape(len(samples), -1)):
        bits = (row[:, None].astype(int) >> np.arange(depth)[::-1]) & 1
        packed = np.packbits(bits.reshape(-1))
        above = np.zeros_like(packed) if above is None else above
        left = np.concatenate([np.zeros(step, np.uint8), packed])[: len(packed)]
        result += bytes([number % 3]) + (packed - [np.zeros_like(packed), left, above][number % 3]).tobytes()
        above = packed
    return result


def png(samples: np.ndarray, depth: int, colour: int, interlaced=False, before=(), behind=()) -> bytes:
    """A PNG of samples (H, W, C) with chunks before and behind the pixels."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in (adam7 if interlaced else [(0, 0, 1, 1)])]
    pixels = zlib.compress(b"".join(lines(part, depth) for part in parts if part.size))
    middle = [(b"IDAT", pixels[:9]), (b"IDAT", pixels[9:])]
    chunks = [(b"IHDR", header), *before, *middle, *behind, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*content) for content in chunks)


def exif(way: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", way) + b"\0\0\0\0\0\0"


def xmp(way: int) -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % way


def carriers(way: int) -> dict[str, tuple[list, list]]:
    """Chunks before and behind the pixels that hold an orientation."""
    data = b"Exif\0\0" + exif(way)
    profile = b"\nexif\n%8d\n%s\n" % (len(data), data.hex().encode())
    metadata = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(way))
    text = (b"tEXt", b"Raw profile type exif\0" + profile)
    packed = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    result = {"early eXIf": ([(b"eXIf", exif(way))], []), "late eXIf": ([], [(b"eXIf", exif(way))])}
    result |= {"early XMP": ([metadata], []), "late XMP": ([], [metadata])}
    return result | {"early profile": ([text], []), "late profile": ([], [packed])}


KINDS = [(0, depth) for depth in (1, 2, 4, 8, 16)] + [(3, depth) for depth in (1, 2, 4, 8)]
KINDS += [(colour, depth) for colour in (2, 4, 6) for depth in (8, 16)]


@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_png_of_every_colour_and_depth_transparency_interlace_and_orientation(colour, depth):
    num_samples, top = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour], 2**depth - 1
    samples = RANDOM.randint(0, top + 1, (HEIGHT, WIDTH, num_samples))
    samples[0, 1:3] = samples[
        0, 0
    ]  # the key, and two that share only the high and only the low bits of its last sample
    samples[0, 1, -1] ^= 1
    samples[0, 2, -1] ^= (top + 1) // 2
    palette, alphas = RANDOM.randint(0, 256, (top + 1, 3)), RANDOM.randint(0, 256, top + 1)
    for transparent, interlaced in itertools.product([False, True] if colour in (0, 2, 3) else [False], [False, True]):
        key = samples[0, 0]
        before = [(b"PLTE", palette.astype(np.uint8).tobytes())] if colour == 3 else []
        if transparent:
            before += [(b"tRNS", alphas.astype(np.uint8).tobytes() if colour == 3 else key.astype(">u2").tobytes())]
        if colour == 3:
            rgb, alpha = palette[samples[..., 0]], alphas[samples[..., 0]] if transparent else np.array(255)
        else:
            rgb = eight(samples[..., : 3 if colour in (2, 6) else 1], top)
            alpha = np.where((samples == key).all(-1), 0, 255) if transparent else np.array(255)
            alpha = eight(samples[..., -1], top) if colour in (4, 6) else alpha
        rgba = np.dstack([np.broadcast_to(rgb, (HEIGHT, WIDTH, 3)), np.broadcast_to(alpha, (HEIGHT, WIDTH))])
        opaque = rgba[..., 3:] / 255
        on_white = rgba[..., :3] * opaque + 255 * (1 - opaque)
        for way in range(1, 9):
            for carrier, (early, late) in ({"none": ([], [])} if way == 1 else carriers(way)).items():
                content = png(samples, depth, colour, interlaced, before + early, late)
                case = f"transparent {transparent}, interlaced {interlaced}, orientation {way}, {carrier}"
                assert np.array_equal(rgba_of(content), turned(rgba, way)), case
            shown = turned(on_white, way)
            colours = decode(io.BytesIO(content), shown.shape[:2], 3, "crop")[0].transpose(1, 2, 0)
            grey = decode(io.BytesIO(content), shown.shape[:2], 1, "crop")[0][0]
            assert np.abs(colours - shown).max() <= 1
            assert np.abs(grey - shown @ [0.299, 0.587, 0.114]).max() <= 1.5


@pytest.mark.parametrize(("colour", "depth"), KINDS)
@pytest.mark.parametrize("transparent", [False, True])
def test_channels_of_a_png_are_found_in_its_header(tmp_path, colour, depth, transparent):
    samples = np.zeros((HEIGHT, WIDTH, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]), int)
    before = [(b"PLTE", bytes(6))] if colour == 3 else []
    before += [(b"tRNS", bytes({0: 2, 2: 6, 3: 1}[colour]))] if transparent and colour in (0, 2, 3) else []
    (tmp_path / "a.png").write_bytes(png(samples, depth, colour, before=before, behind=[(b"eXIf", exif(6))]))
    sizes, channels = read_headers(ImageFiles(tmp_path, ["a.png"]))
    assert sizes == [(WIDTH, HEIGHT)]
    assert channels == (4 if colour in (4, 6) or transparent else 1 if colour == 0 else 3)
    Image.new("L", (9, 9)).save(tmp_path / "b.png")  # opaque: the alpha of the other is given up, but not its colour
    assert read_headers(ImageFiles(tmp_path, ["a.png", "b.png"]))[1] == (1 if colour in (0, 4) else 3)


def test_late_text_of_a_png_is_found_without_decoding(monkeypatch):
    content = png(NOISE[..., :3], 8, 2, behind=[(b"tEXt", b"Comment\0x"), (b"eXIf", exif(8))])
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)
    assert upright_size(opened(io.BytesIO(content))) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("way", [0, 9])
def test_an_orientation_that_is_none_is_upright(way):
    for early, late in carriers(way).values():
        content = png(NOISE, 8, 6, before=early, behind=late)
        assert np.array_equal(rgba_of(content), NOISE)
    damaged = png(NOISE, 8, 6, before=[(b"eXIf", b"MM\0*\xff")])
    assert orientation(opened(io.BytesIO(damaged))) == 1


def test_exif_wins_over_a_profile_and_a_profile_over_xmp():
    six, three, two = carriers(6), carriers(3), carriers(2)
    both = png(NOISE, 8, 6, before=three["early profile"][0] + two["early XMP"][0], behind=six["late eXIf"][1])
    assert np.array_equal(rgba_of(both), turned(NOISE, 6))
    both = png(NOISE, 8, 6, before=two["early XMP"][0], behind=three["late profile"][1])
    assert np.array_equal(rgba_of(both), turned(NOISE, 3))


# ---- other formats


@pytest.mark.parametrize("way", range(1, 9))
@pytest.mark.parametrize("carrier", ["exif", "xmp"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
        ("MPO", {"quality": 100, "subsampling": 0}),
    ],
)
def test_orientation_of_other_formats(kind, options, carrier, way):
    smooth = np.zeros((8, 16, 3), np.uint8)  # every orientation of it differs
    smooth[:, :8], smooth[:4, :, 0] = 90, 160
    if (carrier, kind) == ("xmp", "TIFF"):
        info = Image.Exif()
        info[700] = xmp(way)
        content = encoded(smooth, kind, exif=info, **options)
    else:
        content = encoded(
            smooth, kind, **options, **{carrier: b"Exif\0\0" + exif(way) if carrier == "exif" else xmp(way)}
        )
    image = rgba_of(content)[..., :3]
    assert image.shape == turned(smooth, way).shape
    assert np.abs(image.astype(int) - turned(smooth, way)).max() <= (0 if kind in ("WEBP", "TIFF") else 12)


def tiff(samples: np.ndarray, order: str, packed: bool, photometric: int, extra=(), apart=False, **others) -> bytes:
    """A TIFF of samples (H, W, C) of any type, in one strip, or in one a plane, with other tags (t256=[7])."""
    height, width, count = samples.shape
    planes = [samples[..., i] for i in range(count)] if apart else [samples]
    strips = [np.ascontiguousarray(plane, plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    strips = [zlib.compress(strip) + b"\0" * 4 for strip in strips] if packed else strips
    places = list(itertools.accumulate(map(len, strips), initial=8))
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags = {256: [width], 257: [height], 258: [8 * samples.itemsize] * count, 259: [8 if packed else 1]}
    tags |= {262: [photometric], 273: places[:-1], 277: [count], 278: [height], 279: list(map(len, strips))}
    tags |= {284: [1 + apart], 338: list(extra), 339: [kind] * count}
    tags |= {int(name[1:]): values for name, values in others.items()}
    tags = {tag: values for tag, values in tags.items() if values}
    start = places[-1]
    directory, rest = struct.pack(f"{order}H", len(tags)), b""
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}I", *values)
        if len(content) > 4:
            place = start + 6 + 12 * len(tags) + len(rest)
            rest, content = rest + content, struct.pack(f"{order}I", place)
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + content
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", start)
    return head + b"".join(strips) + directory + bytes(4) + rest


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("dtype", "white"), [("u1", 255), ("u2", 65535), ("i2", 32767), ("u4", 65535), ("i4", 65535), ("f4", 255)]
)
def test_tiff_of_every_type_of_sample(order, packed, dtype, white):
    samples = np.linspace(0, white, HEIGHT * WIDTH).round().astype(dtype).reshape(HEIGHT, WIDTH, 1)
    if (order, dtype) == (">", "u4"):  # Pillow does not read it
        assert "TIFF, damaged or of a kind" in refusal(lambda: rgba_of(tiff(samples, order, packed, 1)))
        return
    assert np.array_equal(rgba_of(tiff(samples, order, packed, 1))[..., 0], eight(samples[..., 0], white))
    if dtype != "u1":
        half = rgba_of(tiff(samples, order, packed, 1), levels=101)
        assert np.array_equal(half[..., 0], eight(samples[..., 0], 101))
    if dtype in ("u1", "u2", "f4") and (order, dtype) != (">", "u2"):  # 0 is white
        expected = eight(white - samples[..., 0].astype(float), white)
        assert np.array_equal(rgba_of(tiff(samples, order, packed, 0))[..., 0], expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("extra", [(), (2,), (0,)], ids=["RGB", "RGBA", "RGBX"])
def test_tiff_of_16_bit_colours(order, packed, extra):
    samples = RANDOM.randint(0, 65536, (HEIGHT, WIDTH, 3 + len(extra))).astype(np.uint16)
    alpha = eight(samples[..., -1], 65535) if extra == (2,) else 255
    for levels in (None, 4095):
        image = rgba_of(tiff(samples, order, packed, 2, extra), levels=levels)
        assert np.array_equal(image[..., :3], eight(samples[..., :3], levels or 65535))
        assert (image[..., 3] == alpha).all()
    for way in range(2, 9):
        image = rgba_of(tiff(samples, order, packed, 2, extra, t274=[way]))
        assert np.array_equal(image[..., :3], turned(eight(samples[..., :3], 65535), way))
    apart = tiff(samples[..., :3], order, packed, 2, apart=True)
    if packed:  # Pillow gives the high byte alone
        assert np.array_equal(rgba_of(apart)[..., :3], samples[..., :3] >> 8)
        assert "--data.levels" in refusal(lambda: rgba_of(apart, levels=4095))
    else:
        assert "planes" in refusal(lambda: rgba_of(apart))


def test_tiff_of_12_bits():
    samples = RANDOM.randint(0, 4096, (HEIGHT, 8))
    bits = (samples[..., None] >> np.arange(12)[::-1]) & 1
    content = tiff(np.packbits(bits.reshape(HEIGHT, -1), 1)[..., None], "<", False, 1, t256=[8], t258=[12])
    assert np.array_equal(rgba_of(content)[..., 0], eight(samples, 4095))


@pytest.mark.parametrize("maxval", [1, 100, 255, 1023, 65535])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_ppm_of_every_maxval(maxval, plain, count):
    samples = RANDOM.randint(0, maxval + 1, (HEIGHT, WIDTH, count))
    content = b"P%d\n# a comment\n%d %d\n%d\n" % ({1: 5, 3: 6}[count] - 3 * plain, WIDTH, HEIGHT, maxval)
    content += (
        " ".join(map(str, samples.reshape(-1))).encode()
        if plain
        else (samples.astype(">u2" if maxval > 255 else np.uint8).tobytes())
    )
    assert np.abs(rgba_of(content)[..., :3] - eight(samples, maxval).astype(int)).max() <= (0 if maxval > 255 else 1)
    if plain and count == 3 and maxval > 255:
        assert "--data.levels" in refusal(lambda: rgba_of(content, levels=501))
    elif maxval > 255:
        assert np.array_equal(
            rgba_of(content, levels=501)[..., :3], np.broadcast_to(eight(samples, 501), (HEIGHT, WIDTH, 3))
        )


def test_floating_point_levels_need_a_white():
    samples = np.array([[[0], [0.25], [1]]], np.float32)
    assert "0 to 255" in refusal(lambda: rgba_of(tiff(samples, "<", False, 1)))
    assert rgba_of(tiff(samples, "<", False, 1), levels=1)[0, :, 0].tolist() == [0, 64, 255]
    assert rgba_of(encoded(samples[..., 0], "PPM"), levels=1)[0, :, 0].tolist() == [0, 64, 255]
    assert "finite" in refusal(lambda: rgba_of(tiff(samples * np.nan, "<", False, 1), levels=1))


def test_lab_is_converted_by_its_definition():
    lab = np.array([[[50, 0, 0], [70, 30, 40], [40, 5, -25], [100, 0, 0]]], float)
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]  # D50
    to_linear = [
        [3.1339, -1.6169, -0.4906],
        [-0.9788, 1.9161, 0.0335],
        [0.0719, -0.2290, 1.4052],
    ]  # sRGB seen under D50
    linear = (xyz @ np.transpose(to_linear)).clip(0, 1)
    expected = 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    stored = np.concatenate([lab[..., :1] * 2.55, lab[..., 1:] % 256], -1).round().astype(np.uint8)
    assert np.abs(rgba_of(tiff(stored, "<", False, 8))[..., :3] - expected).max() <= 2


def test_cmyk_ycbcr_and_premultiplied_alpha():
    c, m, y, k = NOISE.astype(float).transpose(2, 0, 1)
    expected = np.stack([(255 - ink) * (255 - k) / 255 for ink in (c, m, y)], -1)
    assert np.abs(rgba_of(tiff(NOISE, "<", False, 5))[..., :3] - expected).max() <= 1
    flat = np.full((16, 16, 4), (200, 30, 90, 40), np.uint8)
    for adobe in (flat, 255 - flat):  # a JPEG holds inverted inks, which a decoder inverts back
        jpeg = encoded(Image.frombytes("CMYK", (16, 16), adobe.tobytes()), "JPEG", quality=100)
        *inks, black = 255 - adobe[0, 0].astype(float)
        assert np.abs(rgba_of(jpeg)[8, 8, :3] - np.array(inks) * black / 255).max() <= 4
    luma, blue, red = NOISE[..., :3].astype(float).transpose(2, 0, 1)
    rgb = [
        luma + 1.402 * (red - 128),
        luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        luma + 1.772 * (blue - 128),
    ]
    ycbcr = rgba_of(tiff(NOISE[..., :3], "<", False, 6))[..., :3]
    assert np.abs(ycbcr - np.stack(rgb, -1).clip(0, 255)).max() <= 2
    alpha = NOISE[..., 3:].clip(100)
    colour = NOISE[..., :3]
    multiplied = np.concatenate([(colour * (alpha / 255)).round().astype(np.uint8), alpha], -1)
    assert np.abs(rgba_of(tiff(multiplied, "<", False, 2, (1,))).astype(int)[..., :3] - colour).max() <= 3
    grey = rgba_of(tiff(multiplied[..., [0, 3]], "<", False, 1, (1,))).astype(int)
    assert np.abs(grey[..., 0] - colour[..., 0]).max() <= 3 and np.array_equal(grey[..., 3:], alpha)


LOSSLESS = [
    ("BMP", {}),
    ("TIFF", {}),
    ("WEBP", {"lossless": True}),
    ("PPM", {}),
    ("TGA", {}),
    ("TGA", {"compression": "tga_rle"}),
]
LOSSLESS += [
    ("QOI", {}),
    ("DDS", {}),
    ("ICO", {"sizes": [(WIDTH, HEIGHT)]}),
    ("SGI", {}),
    ("PCX", {}),
    ("JPEG2000", {}),
    ("PNG", {}),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS, ids=str)
def test_lossless_formats_are_exact(kind, options):
    suffix = next(suffix for suffix, name in Image.registered_extensions().items() if name == kind)
    assert suffix in SUFFIXES
    rgb = NOISE[..., :3]
    assert np.array_equal(rgba_of(encoded(rgb, kind, **options), f"a{suffix}")[..., :3], rgb)
    if kind in ("TIFF", "WEBP", "TGA", "QOI", "DDS", "ICO", "SGI", "JPEG2000"):
        visible = NOISE | np.array([0, 0, 0, 1], np.uint8)  # WebP gives up the colours of what nobody sees
        assert np.array_equal(rgba_of(encoded(visible, kind, **options), f"a{suffix}"), visible)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PNG", "TGA", "PCX", "ICO"])
def test_grey_bits_and_palettes_are_exact(kind):
    colours = RANDOM.randint(0, 256, (256, 3)).astype(np.uint8)
    indices = NOISE[..., 0]
    palette = Image.fromarray(indices)
    palette.putpalette(colours.tobytes())
    bits = Image.fromarray(indices > 127)
    options = {"sizes": [(WIDTH, HEIGHT)]} if kind == "ICO" else {}
    for image, expected in (
        (Image.fromarray(indices), np.stack([indices] * 3, -1)),
        (palette, colours[indices]),
        (bits, np.stack([255 * (indices > 127)] * 3, -1)),
    ):
        shown = rgba_of(encoded(image, kind, **options), f"a.{kind.lower()}")
        assert np.array_equal(shown[..., :3], expected) and (shown[..., 3] == 255).all()
    if kind in ("GIF", "PNG"):
        shown = rgba_of(encoded(palette, kind, transparency=int(indices[2, 2])))
        assert np.array_equal(shown[..., 3] == 0, indices == indices[2, 2])


@pytest.mark.parametrize("kind", [*dict(LOSSLESS), "JPEG", "AVIF", "GIF"])
def test_what_is_cut_off_is_refused_with_a_reason(kind):
    options = {"sizes": [(40, 50)]} if kind == "ICO" else {}
    content = encoded(RANDOM.randint(0, 256, (50, 40, 3)).astype(np.uint8), kind, **options)
    for part in (0.001, 0.1, 0.3, 0.6, 0.9):
        with pytest.raises(Exception) as caught:
            rgba_of(content[: int(part * len(content))], f"a.{kind.lower()}")
        assert not isinstance(caught.value, AssertionError) and str(caught.value)


def test_colours_that_pillow_cuts_do_not_take_levels():
    deep = RANDOM.randint(0, 65536, (HEIGHT, WIDTH, 4)).astype(np.uint16)
    cut = [encoded(NOISE[..., :3], "SGI", bpc=2), tiff(deep, "<", True, 5), tiff(deep, ">", False, 2, (1,))]
    for content in cut:
        assert rgba_of(content).shape == (HEIGHT, WIDTH, 4)
        assert "--data.levels" in refusal(partial(rgba_of, content, levels=4095))


def test_the_first_picture_counts():
    for kind in ("MPO", "GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        green, red = (Image.new("RGB", (16, 16), colour) for colour in ("lime", "red"))
        content = encoded(green, kind, save_all=True, append_images=[red])
        assert np.abs(rgba_of(content).astype(int) - [0, 255, 0, 255]).max() <= 2, kind


def test_formats_are_those_that_pillow_decodes_itself():
    assert {"AVIF", "WEBP", "JPEG2000"} & set(FORMATS) == {
        name for name, part in (("AVIF", "avif"), ("WEBP", "webp"), ("JPEG2000", "jpg_2000")) if features.check(part)
    }
    assert not {"EPS", "WMF", "PDF", "MPEG", "FLI", "FITS", "HDF5", "GRIB", "BUFR"} & set(FORMATS)
    assert {".jpg", ".jfif", ".jpe", ".apng", ".pgm", ".pbm", ".pnm", ".tga", ".ico"} <= set(SUFFIXES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is HEIC, which is not read here: convert it"),
        (b"\xff\x0a" + bytes(40), "is JPEG XL"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is PostScript"),
        (b"<?xml version='1.0'?>\n<svg/>", "is SVG"),
        (b"\n<!DOCTYPE html><html>", "is a web page and no image: fetch it again"),
        (b"version https://git-lfs", "is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "is PNG, damaged"),
        (b"not an image", "no image that Pillow knows"),
    ],
)
def test_what_cannot_be_read_is_named(content, said):
    for name in ("", "a.jpg", "a.tga"):
        with pytest.raises(Exception) as caught:
            rgba_of(content, name)
        assert said in str(caught.value) or name == "a.tga"


def test_formats_without_a_signature_need_their_suffix():
    content = encoded(NOISE, "TGA")
    assert np.array_equal(rgba_of(content, "x/A.TGA"), NOISE)
    assert "no image" in refusal(lambda: rgba_of(content, "a.png"))


# ---- few levels


@pytest.mark.parametrize(("peak", "fitting"), [(4080, 4095), (255, 255), (1, 1), (16383, 16383)])
def test_images_that_come_out_almost_black_are_said(peak, fitting):
    samples = np.linspace(0, peak, HEIGHT * WIDTH).astype(int).reshape(HEIGHT, WIDTH, 1)
    for colour in (0, 2):
        file = io.BytesIO(png(np.repeat(samples, 1 + colour, -1), 16, colour))
        used = decode(file, (HEIGHT, WIDTH), 1, "crop")[1]
        (line,) = remarks([used] * 3, None)
        assert line == (
            f"3 of 3 images deeper than 8 bits use levels up to {peak:,} of 65,535, almost black: "
            f"--data.levels {fitting} makes that white"
        )
        used = decode(file, (HEIGHT, WIDTH), 1, "crop", fitting)[1]
        assert not [*remarks([used] * 3, fitting)]
    assert not [*remarks([Levels(10, 4095)], 4095)]  # the user has said it


def test_levels_for_images_of_8_bits_are_not_ignored_in_silence():
    assert [*remarks([], 4095)] == ["--data.levels 4095 changes nothing: no image is deeper than 8 bits"]
    assert not [*remarks([], None)]


def test_levels_above_white_are_said():
    high = tiff(np.array([[[3 * 10**9], [0]]], np.uint32), "<", False, 1)  # beyond the integers of Pillow
    assert rgba_of(high)[0, :, 0].tolist() == [255, 0]
    samples = np.array([[[1], [70000]]], np.int32)
    used = decode(io.BytesIO(tiff(samples, "<", False, 1)), (1, 2), 1, "crop")[1]
    (line,) = remarks([used], None)
    assert "1 of 1 images" in line and "reach 70,000" in line and "--data.levels 70000" in line
