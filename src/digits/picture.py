"""Any picture of a digit, brought into MNIST's form as MNIST itself was made."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from digits.paper import LEAST_CONTRAST, Pixels, ink_on_paper
from litlab.errors import UserError

# LeCun, Cortes, Burges, The MNIST database: the digit's larger side fills 20 pixels, its centre of mass is the middle.
SIZE, BOX = 28, 20

GRAIN = 4.0
"""How many times the typical deviation of the border from its middle value is still paper."""

FAINT = 0.25
"""Share of the darkest ink up to which ink says nothing about where the digit ends."""

FULL = 254
"""The darkest ink of a digit, in grey levels, is at least this in each of MNIST's 70,000 images."""


def mnist_form(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """A digit as MNIST would have it: (28, 28), light on black, its larger side 20, its centre of mass in the middle.

    Of MNIST's 70,000 images all but 17 come out as they are; 16 of those are cut off at an edge. A picture of MNIST's
    size is taken to be a drawing on even paper, which most of its border shows; a larger one may be a photograph. If
    the border is transparent, what is not is ink.

    Args:
        picture: of any size, in Pillow's mode L, RGB, LA or RGBA.

    Raises:
        UserError: nothing is drawn there, or several digits, or with ink as bright as the paper.
    """
    ink = _ink(picture)
    if not ink.any():
        unclear = "shows no digit that stands out from the paper all around it"
        raise UserError("is blank" if _is_plain(picture) else unclear)
    digit = _drawn(ink, 0)
    if max(digit.shape) > SIZE:  # the faintest edge is less than a pixel of MNIST's, or a camera's noise
        digit = _drawn(ink, FAINT * ink.max())
    return _centred(_fitted(digit))


def _drawn(ink: Pixels, faint: float) -> Pixels:
    """The part of the picture in which there is more ink than that."""
    rows, columns = (np.flatnonzero((ink > faint).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _is_plain(picture: Image.Image) -> bool:
    """Whether no colour varies."""
    return bool((np.ptp(np.asarray(picture.convert("RGB")), axis=(0, 1)) < LEAST_CONTRAST).all())


def _ink(picture: Image.Image) -> Pixels:
    """How much ink is on each pixel: 0 on paper, up to 255."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    opacity = np.asarray(picture.getchannel("A")) / 255 if picture.mode in ("LA", "RGBA") else np.ones_like(grey)
    if not opacity.any():
        return opacity
    if opacity.min() < 1:
        if _border(opacity).mean() < 0.5 or np.ptp(grey[opacity > 0]) < LEAST_CONTRAST:
            is_dark = np.average(grey, weights=opacity) < 128
            return opacity * (255 - grey if is_dark else grey)
        paper = np.median(_border(grey)[_border(opacity) > 0.5])
        grey = grey * opacity + paper * (1 - opacity)
    even = _darkness(grey)
    return even if max(grey.shape) <= SIZE or _fills(even) else ink_on_paper(grey)


def _fills(ink: Pixels) -> bool:
    """Whether the ink is in one piece that reaches all sides of the picture, along less than half of its border."""
    strokes = ink > ink.max() / 2
    reaches = [edge.any() for edge in (strokes[0], strokes[-1], strokes[:, 0], strokes[:, -1])]
    return all(reaches) and _border(strokes).mean() < 0.5 and ndimage.label(strokes)[1] == 1


def _darkness(grey: Pixels) -> Pixels:
    """How far each pixel is from the paper, which most of the border shows, towards the ink."""
    border, middle = _border(grey), (grey.min() + grey.max()) / 2
    if np.ptp(grey) < LEAST_CONTRAST:
        return np.zeros_like(grey)
    if border.mean() > middle:
        return _darkness(255 - grey)
    plain = border[border <= middle]
    paper = np.median(plain)
    grain = min(GRAIN * np.median(np.abs(plain - paper)), FAINT * (grey.max() - paper))
    ink: Pixels = np.where(grey - paper > grain, grey - paper, 0)
    return ink


def _border(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The outermost pixels."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _fitted(ink: Pixels) -> Pixels:
    """The ink with its larger side 20 pixels and its darkest place as dark as MNIST's."""
    height, width = ink.shape
    scale = BOX / max(height, width)
    if scale != 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        resized = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        ink = np.asarray(resized, dtype=np.float64).clip(0, 255)
    return ink if ink.max() >= FULL else ink * (255 / ink.max())


def _centred(ink: Pixels) -> npt.NDArray[np.uint8]:
    """The ink in the middle of an image: in MNIST the centre of mass is within the pixel below and right of it."""
    image = np.zeros((SIZE, SIZE), dtype=np.uint8)
    places = []
    for axis, length in enumerate(ink.shape):
        centre = np.average(np.arange(length) + 0.5, weights=ink.sum(1 - axis))
        places.append(min(max(0, math.ceil(SIZE / 2 - centre)), SIZE - length))
    (top, left), (height, width) = places, ink.shape
    image[top : top + height, left : left + width] = ink.round()
    return image
