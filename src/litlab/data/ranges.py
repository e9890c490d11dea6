"""Pictures of more than 8 bits brought to 8: what number is white in them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from litlab.errors import UserError

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Numbers of TIFF's tags."""

SIGNED = 2
"""What the tag SAMPLE_FORMAT says of integers that may be negative."""

Pixels = npt.NDArray[Any]


class UnknownRangeError(UserError):
    """A picture whose white is not known, since its largest value is far below what the file could hold."""


def refuse_lost_digits(picture: Image.Image, max_value: float | None) -> None:
    """Make sure that a picture, which is not loaded yet, loses no more than rounding when Pillow makes bytes of it.

    Raises:
        UserError: it has signed bytes, or colours of 16 bits whose white is not 65535.
    """
    tags = getattr(picture, "tag_v2", {})
    if tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED and not picture.mode.startswith("I"):
        raise UserError("has signed bytes, which cannot be read; save it with unsigned ones")
    if ";16" not in str(getattr(picture, "tile", "")) or picture.mode.startswith("I"):
        return
    if max_value not in (None, 65535):
        raise UserError(f"has colours of 16 bits, whose white can only be read as 65535, not {max_value:g}")
    if picture.mode != "CMYK":
        picture.load()
        largest = int(np.asarray(picture.convert("RGB")).max(initial=0))  # Pillow keeps the upper bytes
        if max_value is None and 0 < largest < 128:
            raise _unknown_range(256 * largest + 255, 65535)


def is_deep(picture: Image.Image) -> bool:
    """Whether Pillow has kept more than 8 bits of each pixel."""
    return picture.mode.startswith(("I", "F"))


def in_bytes(picture: Image.Image, white: float | None) -> Image.Image:
    """A deep picture in mode L, or LA where parts are transparent; from 0, black, to `white`, or what the file says.

    Raises:
        UserError: a value is below 0, above white or no number.
        UnknownRangeError: the file says nothing of its range, and uses no more than half of it.
    """
    tags = getattr(picture, "tag_v2", {})
    pixels = np.asarray(picture)
    bits, sample = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0]
    if (bits, sample) == (32, 1):
        pixels = pixels.view(np.uint32)  # as Pillow has read it, but for the sign
    largest_of_all = 1.0 if picture.mode == "F" else float(2 ** (bits - (sample == SIGNED)) - 1)
    smallest, largest = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    top = white or largest_of_all
    if not (smallest >= 0 and largest <= top):  # NaN compares as false
        raise UserError(f"has values from {smallest:g} to {largest:g}, where 0 to {top:g} was expected")
    if white is None and picture.format != "PPM" and 0 < largest < largest_of_all / 2:
        raise _unknown_range(largest, largest_of_all)
    alpha = pixels == picture.info["transparency"] if "transparency" in picture.info else None
    if tags.get(PHOTOMETRIC) == 0:  # white is 0
        pixels = top - pixels
    grey = Image.fromarray((pixels.astype(np.float64) * (255 / top)).round().astype(np.uint8))
    if alpha is not None:
        grey.putalpha(Image.fromarray(np.where(alpha, 0, 255).astype(np.uint8)))
    return grey


def _unknown_range(largest: float, possible: float) -> UnknownRangeError:
    return UnknownRangeError(f"has values up to {largest:g} of {possible:g}, so that its white is not known")
