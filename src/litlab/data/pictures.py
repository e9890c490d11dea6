"""Pictures as they come, in files or on standard input: of any format, size and colour, whole or not."""

import glob
import math
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from threading import Lock

from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from litlab.data.listing import is_hidden, visible_files
from litlab.data.ranges import in_bytes, is_deep, refuse_lost_digits
from litlab.errors import UserError
from litlab.messages import first_lines

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""What is read; of others that Pillow knows, some start programs."""

NEW_SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
"""The number of TIFF's tag that says what a page is, and what it says."""

LARGEST_STREAM = 2**28
"""Bytes that are read from standard input."""

LARGE = 2**22
"""Pixels above which a picture is reduced once it is read; of these, only one is decoded at a time, to save memory."""

decoding_large = Lock()

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
        files = visible_files(path)
    elif path.exists():
        if not path.is_file():
            raise UserError(f"input={asked}: is neither a file nor a folder; a stream can be given as input=-")
        files = [path]
    elif glob.has_magic(asked):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (it may be absolute)
        files = [match for match in matches if not any(map(is_hidden, set(match.parts).difference(path.parts)))]
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


def read(source: Path | bytes, max_value: float | None = None) -> Image.Image:
    """A picture, upright, in mode L or RGB, or where parts are transparent LA or RGBA; a large one is reduced.

    Args:
        source: the file, or what is in it.
        max_value: white in pictures of more than 8 bits; None for the largest value of the file's type.

    Raises:
        UserError: it cannot be read, and why; its name is left to the caller.
        UnknownRangeError: it takes `max_value` to read it.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():  # opening a pipe would wait for a writer
        raise UserError("is not a file but a folder, pipe, socket or device")
    if _is_empty(source):  # as files of /proc say, some of which never end
        raise UserError("is empty")
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as picture, _turn(picture):
            _refuse_pages(picture)
            refuse_lost_digits(picture, max_value)
            picture.load()
            whole = in_bytes(picture, max_value) if is_deep(picture) else _plain(picture)
            return ImageOps.exif_transpose(_reduced(whole))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError("is not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels, as a decompression bomb would") from error
    except Exception as error:  # Pillow says with many types that a file is not what it should be
        raise UserError(f"is a damaged picture: {first_lines(error)}") from error


def _is_empty(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return not source
    return source.exists() and source.stat().st_size == 0


def _turn(picture: Image.Image) -> AbstractContextManager[object]:
    """What to hold while a picture is decoded."""
    return decoding_large if math.prod(picture.size) > LARGE else nullcontext()


def _reduced(picture: Image.Image) -> Image.Image:
    """The picture with about LARGE pixels at most, each the mean of a square of the picture's."""
    factor = math.isqrt(math.prod(picture.size) // LARGE)
    return picture.reduce(min(factor, *picture.size)) if factor > 1 else picture


def _refuse_pages(picture: Image.Image) -> None:
    """Go to the only page; pages that hold the same picture smaller, or a mask, are none.

    Raises:
        UserError: there are several.
    """
    pages = [0, 1] if getattr(picture, "is_animated", False) and picture.format != "MPO" else [0]  # a camera's preview
    if picture.format == "TIFF" and len(pages) > 1:
        kinds = (page.tag_v2.get(NEW_SUBFILE_TYPE, 0) for page in ImageSequence.Iterator(picture))  # type: ignore
        pages = [index for index, kind in enumerate(kinds) if not kind & (REDUCED | MASK)][:2] or [0]
    if len(pages) > 1:
        raise UserError("has several pages, of which only the first would be read; save each as a picture of its own")
    picture.seek(pages[0])


def _plain(picture: Image.Image) -> Image.Image:
    """A picture of bytes in one of the four modes."""
    if picture.has_transparency_data:
        return picture.convert("LA" if picture.mode in ("L", "LA") else "RGBA")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
