"""Pictures of every kind of pixel become the right bytes, or are named as such that cannot be read."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from litlab.data.listing import visible_files
from litlab.data.pictures import find, read
from litlab.data.ranges import UnknownRangeError
from litlab.errors import UserError

INTEGER, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
RAMP = np.linspace(0, 1, 16).reshape(4, 4)
BYTES = (RAMP * 255).round().astype(np.uint8)


def tiff(pixels, sample=INTEGER, photometric=BLACK_IS_ZERO, bits=None):
    """An uncompressed TIFF file of these pixels, which need not be of a kind that Pillow can write."""
    pixels = np.atleast_3d(pixels)
    height, width, channels = pixels.shape
    content = pixels.tobytes() if bits is None else packed(pixels, bits)
    bits = bits or 8 * pixels.itemsize
    values = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: channels, 278: height}
    values |= {279: len(content), 339: sample}
    start = 8 + 2 + 12 * len(values) + 4
    extra = struct.pack("<6H", *[bits] * 3, *[sample] * 3)
    fields = b""
    for tag, value in values.items():
        if channels == 3 and tag in (258, 339):
            fields += struct.pack("<HHII", tag, 3, 3, start if tag == 258 else start + 6)
        else:
            fields += struct.pack("<HHII", tag, 4, 1, start + len(extra) if tag == 273 else value)
    header = b"II*\0" + struct.pack("<IH", 8, len(values))
    return header + fields + bytes(4) + extra + content


def packed(pixels, bits):
    rows = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in pixels]
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)


def encoded(*pictures, form="PNG", **options):
    stream = io.BytesIO()
    pictures[0].save(
        stream, form, **({"save_all": True, "append_images": pictures[1:]} if pictures[1:] else {}), **options
    )
    return stream.getvalue()


def scaled(kind, white):
    return (RAMP * white).round().astype(kind)


def deep(pixels, form="PNG", **options):
    return encoded(Image.fromarray(pixels), form=form, **options)


@pytest.mark.parametrize(
    ("content", "max_value"),
    [
        (deep(scaled(np.uint16, 65535)), None),
        (deep(scaled(np.uint16, 65535), "TIFF"), None),
        (deep(scaled(np.uint16, 65535), "TIFF", compression="tiff_lzw"), None),
        (deep(scaled(np.uint16, 65535), "PPM"), None),
        (deep(scaled(np.uint16, 4095)), 4095),
        (deep(scaled(np.uint16, 4095), "TIFF"), 4095),
        (deep(scaled(np.uint16, 1023), "TIFF"), 1023),
        (tiff(scaled(np.uint16, 4095), bits=12), None),
        (tiff(65535 - scaled(np.uint16, 65535), photometric=WHITE_IS_ZERO), None),
        (tiff(scaled(np.int16, 32767), SIGNED), None),
        (tiff(scaled(np.uint32, 2**32 - 1)), None),
        (tiff(scaled(np.uint32, 2**31 + 5)), 2**31 + 5),
        (tiff(scaled(np.int32, 2**31 - 1), SIGNED), None),
        (deep(scaled(np.int32, 65535), "TIFF"), 65535),
        (deep(RAMP.astype(np.float32), "TIFF"), None),
        (deep((RAMP * 255).astype(np.float32), "TIFF"), 255),
        (deep((RAMP * 1e6).astype(np.float32), "TIFF"), 1e6),
        (tiff(1 - RAMP.astype(np.float32), FLOAT, WHITE_IS_ZERO), None),
        (deep((RAMP > 0.5).astype(np.uint8) * 255), None),
        (b"P5 4 4 4095\n" + scaled(">u2", 4095).tobytes(), None),
        (b"P5 4 4 15\n" + scaled(np.uint8, 15).tobytes(), None),
        (deep(np.zeros((4, 4), np.uint16)), None),
    ],
)
def test_grey_of_any_depth(content, max_value):
    picture = read(content, max_value)
    pixels = np.asarray(picture).astype(int)
    assert picture.mode == "L"
    is_two_valued = len(np.unique(pixels)) <= 2
    expected = pixels if is_two_valued else BYTES
    assert np.abs(pixels - expected).max() <= 1  # 12 bits and fewer do not hold each of the ramp's values
    if is_two_valued:
        assert set(np.unique(pixels)) <= {0, 255}


GREY = Image.fromarray(BYTES)
COLOUR = Image.merge("RGB", [GREY, GREY, Image.new("L", (4, 4), 10)])
CLEAR = Image.fromarray(np.where(RAMP < 0.5, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(GREY.convert("1", dither=0)), GREY.convert("1", dither=0).convert("L")),
        (encoded(GREY.convert("1", dither=0), form="TIFF"), GREY.convert("1", dither=0).convert("L")),
        (encoded(COLOUR.convert("P", palette=Image.Palette.ADAPTIVE)), COLOUR),
        (encoded(COLOUR, form="TIFF"), COLOUR),
        (encoded(COLOUR.convert("CMYK"), form="TIFF"), COLOUR),
        (tiff(np.asarray(COLOUR).astype(np.uint16) * 257, photometric=RGB), COLOUR),
        (tiff(np.asarray(255 - BYTES), photometric=WHITE_IS_ZERO), GREY),
    ],
)
def test_other_kinds_of_pixels(content, expected):
    assert np.abs(np.asarray(read(content)).astype(int) - np.asarray(expected)).max() <= 1


def test_transparency_is_kept():
    palette = COLOUR.convert("P", palette=Image.Palette.ADAPTIVE)
    clear = palette.getpixel((0, 0))
    picture = read(encoded(palette, transparency=clear))
    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0))[3] == 0
    assert picture.getpixel((3, 3))[3] == 255
    picture = read(deep(scaled(np.uint16, 65535), transparency=0))
    assert picture.mode == "LA"
    assert np.asarray(picture)[0, :2].tolist() == [[0, 0], [17, 255]]


SHALLOW = [
    (deep(scaled(np.uint16, 4095)), "has values up to 4095 of 65535"),
    (deep(scaled(np.uint16, 4095), "TIFF"), "has values up to 4095 of 65535"),
    (deep(scaled(np.uint16, 255), "TIFF"), "has values up to 255 of 65535"),
    (deep(scaled(np.int32, 65535), "TIFF"), "has values up to 65535 of 2.14748e\\+09"),
    (deep((RAMP * 0.01).astype(np.float32), "TIFF"), "has values up to 0.01 of 1"),
    (tiff(np.asarray(COLOUR).astype(np.uint16) * 16, photometric=RGB), "has values up to 4095 of 65535"),
]


@pytest.mark.parametrize(("content", "line"), SHALLOW)
def test_an_unknown_range_is_told(content, line):
    with pytest.raises(UnknownRangeError, match=line):
        read(content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (deep((RAMP * 255).astype(np.float32), "TIFF"), "has values from 0 to 255, where 0 to 1 was expected"),
        (deep((RAMP - 0.5).astype(np.float32), "TIFF"), "has values from -0.5 to 0.5"),
        (deep(np.full((4, 4), np.nan, np.float32), "TIFF"), "has values from nan to nan"),
        (deep(scaled(np.int32, 2**31 - 1) - 1, "TIFF"), "has values from -1"),
        (tiff(scaled(np.int8, 127), SIGNED), "has signed bytes"),
        (tiff(RAMP.astype(np.float64), FLOAT), "is not an image"),
        (tiff(RAMP.astype(np.float16), FLOAT), "is not an image"),
        (encoded(GREY, GREY.rotate(90), form="TIFF"), "has several pages"),
        (encoded(GREY, GREY.rotate(90), form="GIF"), "has several pages"),
        (encoded(GREY, GREY.rotate(90), form="WEBP"), "has several pages"),
        (encoded(GREY, GREY.rotate(90), form="PNG"), "has several pages"),
    ],
)
def test_what_cannot_be_read_is_named(content, line):
    with pytest.raises(UserError, match=line):
        read(content)


def test_colours_of_16_bits_have_one_white():
    content = tiff(np.asarray(COLOUR).astype(np.uint16) * 16, photometric=RGB)
    with pytest.raises(UserError, match="colours of 16 bits, whose white can only be read as 65535, not 4095"):
        read(content, 4095)
    assert np.asarray(read(content, 65535)).max() == 15


def test_a_smaller_copy_is_no_page():
    small, large = GREY.resize((2, 2)), GREY
    content = bytearray(encoded(large, small, form="TIFF", tiffinfo={254: 0}))
    second = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, second)[0]
    following = struct.unpack_from("<I", content, second + 2 + 12 * count)[0]
    entries = range(following + 2, following + 2 + 12 * struct.unpack_from("<H", content, following)[0], 12)
    place = next(entry for entry in entries if struct.unpack_from("<H", content, entry)[0] == 254)
    struct.pack_into("<I", content, place + 8, 1)
    assert np.array_equal(np.asarray(read(bytes(content))), BYTES)


LEFT_BEHIND = (
    ".hidden.png",
    ".DS_Store",
    "._0.png",
    "Thumbs.db",
    "desktop.ini",
    ".ipynb_checkpoints/0-checkpoint.png",
    "__MACOSX/0.png",
    "@eaDir/0.png/thumb.jpg",
    "deep/.git/0.png",
    "deep/$RECYCLE.BIN/0.png",
)


def test_hidden_files_are_not_found(tmp_path):
    for name in (*LEFT_BEHIND, "0.png", "deep/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    visible = [tmp_path / "0.png", tmp_path / "deep" / "1.png"]
    assert visible_files(tmp_path) == visible
    assert list(find(str(tmp_path))) == list(map(str, visible))
    (tmp_path / "deep" / "loop").unlink()
    assert list(find(f"{tmp_path}/**/*")) == [*map(str, visible)]
