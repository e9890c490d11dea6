"""Pictures as they come, in files or on standard input: of any format, size and colour, whole or not."""

import glob
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from litlab.errors import UserError
from litlab.refusals import first_lines

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""What is read; of others that Pillow knows, some start programs."""

LARGEST_STREAM = 2**28
"""Bytes that are read from standard input."""

# A picture of more than 89 million pixels is a mistake or an attack; Pillow refuses only twice that by itself.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

Pictures = dict[str, Path | bytes]
"""Where pictures are, or what was read, by the names that a user knows them by."""


def find(asked: str) -> Pictures:
    """The picture, those in the folder at any depth, those that a pattern fits, or for `-` the one on standard input.

    Raises:
        UserError: there is nothing.
    """
    path = Path(asked).expanduser()
    if asked == "-":
        return {"-": _standard_input()}
    if path.is_dir():
        files = [file for file in path.rglob("*") if not file.name.startswith(".")]
    elif path.exists():
        if not path.is_file():
            raise UserError(f"input={asked}: is neither a file nor a folder; a stream can be given as input=-")
        files = [path]
    elif glob.has_magic(asked):
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (it may be absolute)
    else:
        raise UserError(f"input={asked}: there is no such file or folder")
    found: Pictures = {str(file): file for file in sorted(files) if file.is_file()}
    if not found:
        raise UserError(f"input={asked}: there are no files")
    return found


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise UserError("input=-: takes a picture from standard input, such as … < picture.png")
    content = sys.stdin.buffer.read(LARGEST_STREAM + 1)
    if len(content) > LARGEST_STREAM:
        raise UserError(f"input=-: is larger than {LARGEST_STREAM} bytes")
    return content


def read(source: Path | bytes) -> Image.Image:
    """A picture, upright, in mode L or RGB, or where parts are transparent LA or RGBA.

    Raises:
        UserError: it cannot be read, and why; its name is left to the caller.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
            picture.load()
            return _plain(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        empty = not source if isinstance(source, bytes) else source.stat().st_size == 0
        raise UserError("is empty" if empty else "is no picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels, as a decompression bomb would") from error
    except Exception as error:  # Pillow says with many types that a file is not what it should be
        raise UserError(f"is a damaged picture: {first_lines(error)}") from error


def _plain(picture: Image.Image) -> Image.Image:
    """The picture in one of the four modes."""
    if picture.mode.startswith("I"):  # 16 bits, of which Pillow would cut off what is above 255
        return Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        return picture.convert("LA" if picture.mode in ("L", "LA") else "RGBA")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
