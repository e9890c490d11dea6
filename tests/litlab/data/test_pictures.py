import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from litlab.data.pictures import find, read
from litlab.errors import UserError


@pytest.fixture(scope="module")
def digit(test_set):
    return Image.fromarray(test_set[0][0, 0].numpy())


def encoded(picture, form="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height):
    """A PNG file that says to be of this size, of a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_an_empty_file_is_not_opened_as_some_of_proc_never_end(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("was opened"))
    (tmp_path / "empty.png").touch()
    for file in (tmp_path / "empty.png", Path("/proc/self/status"), b""):
        with pytest.raises(UserError, match="^is empty$"):
            read(file)


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_whole_formats_keep_each_pixel(digit, form):
    assert np.array_equal(np.asarray(read(encoded(digit, form)).convert("L")), np.asarray(digit))


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_formats_nearly_do(digit, form):
    difference = np.asarray(read(encoded(digit, form)).convert("L")).astype(int) - np.asarray(digit)
    assert np.abs(difference).mean() < 6


def test_modes_become_four(digit):
    see_through = Image.merge("LA", [digit, digit])
    palette = digit.convert("P")
    assert read(encoded(digit)).mode == "L"
    assert read(encoded(digit.convert("1"))).mode == "L"
    assert read(encoded(digit.convert("RGB"))).mode == "RGB"
    assert read(encoded(palette)).mode == "RGB"
    assert read(encoded(digit.convert("CMYK"), "JPEG")).mode == "RGB"
    assert read(encoded(see_through)).mode == "LA"
    assert read(encoded(see_through.convert("RGBA"))).mode == "RGBA"
    with_clear_zero = read(encoded(digit, transparency=0))
    assert with_clear_zero.mode == "LA"
    assert np.array_equal(np.asarray(with_clear_zero.getchannel("A")) == 0, np.asarray(digit) == 0)
    assert read(encoded(palette, transparency=0)).mode == "RGBA"


def test_sixteen_bits_become_eight(digit):
    sixteen = Image.fromarray(np.asarray(digit).astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(read(encoded(sixteen))), np.asarray(digit))


def test_a_photo_stands_upright(digit):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = digit.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(np.asarray(read(encoded(turned, exif=exif))), np.asarray(digit))


def test_what_is_wrong_is_said(digit, tmp_path):
    whole = encoded(digit.resize((280, 280)))
    told = {
        b"": "is empty",
        b"hello": "is not an image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "is not an image",  # Pillow would start Ghostscript
        whole[: len(whole) // 2]: "is a damaged picture: ",
        whole[:40]: "is not an image",
        png(10_000, 10_000): "has more than 89478485 pixels, as a decompression bomb would",
        png(40_000, 40_000): "has more than 89478485 pixels, as a decompression bomb would",
    }
    file = tmp_path / "file.png"
    for content, reason in told.items():
        file.write_bytes(content)
        for source in (content, file):
            with pytest.raises(UserError, match=f"^{reason}"):
                read(source)


def test_any_cut_and_any_changed_byte_give_a_picture_or_a_reason(digit):
    whole = encoded(digit)
    chance = np.random.default_rng(0)
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] = int(chance.integers(256))
        for content in (whole[:place], bytes(changed)):
            assert outcome(content) in ("L", "is")


def outcome(content):
    """The mode, or how the reason begins."""
    try:
        return read(content).mode
    except UserError as error:
        return str(error)[:2]


def test_finds_a_file_a_folder_and_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pictures/b.png", "pictures/a.png", "pictures/deep/c[1].jpg", "pictures/.hidden", "other.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pictures" / "pipe.png")
    assert list(find("other.png")) == ["other.png"]
    assert list(find("pictures")) == ["pictures/a.png", "pictures/b.png", "pictures/deep/c[1].jpg"]
    assert list(find("pictures/*.png")) == ["pictures/a.png", "pictures/b.png"]
    assert list(find(f"{tmp_path}/**/*.jpg")) == [f"{tmp_path}/pictures/deep/c[1].jpg"]
    assert list(find("pictures/deep/c[1].jpg")) == ["pictures/deep/c[1].jpg"]  # there is a file of just that name


def test_what_is_no_file_is_named_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="^is not a file but a folder, pipe, socket or device$"):
        read(tmp_path / "pipe.png")


def test_a_large_picture_is_reduced(digit):
    large = digit.resize((5600, 5600), Image.Resampling.NEAREST)
    picture = read(encoded(large, compress_level=1))
    assert picture.size == (2800, 2800)
    assert np.array_equal(np.asarray(picture.resize((28, 28), Image.Resampling.NEAREST)), np.asarray(digit))


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    told = {
        "nowhere": "there is no such file or folder",
        "empty": "there are no files",
        "*.png": "there are no files",
        "pipe": "is neither a file nor a folder; a stream can be given as input=-",
    }
    for asked, reason in told.items():
        with pytest.raises(UserError) as error:
            find(asked)
        assert str(error.value) == f"input={asked}: {reason}"


def test_the_picture_of_readme_is_one():
    assert read(ROOT / "docs" / "seven.png").mode == "L"
