"""Finding what is drawn on a photographed or scanned sheet of paper."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from litlab.errors import UserError

Pixels = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]

LARGEST = 160
"""Pixels of the larger side of what is looked at: first the whole picture, then the drawing and what is around it."""

WINDOWS = (0.25, 0.5)
"""Shares of the picture's smaller side: what is narrower may be ink, what is wider is paper, shadow or table. The
second is for digits with filled loops, where the first finds nothing."""

MARGIN = 0.25
"""Share of the drawing's larger side that is looked at on each side of it."""

LEAST_CONTRAST = 16
"""Grey levels, of 256, between paper and ink below which nothing is taken to be drawn."""

GRAIN = 8.0
"""How many times the typical deviation of the paper from its background is still paper."""

STROKES = 0.5
"""Share of the darkest ink above which a pixel belongs to a stroke."""

FAINT = 0.25
"""Share of the darkest ink up to which ink says nothing about where the drawing ends."""

DUST = 0.1
"""Share of the longest piece up to which a piece is not part of the drawing."""

LEAST_SIDE = 0.05
"""Share of the picture's larger side that the longest piece has at least; what is smaller is grain."""

OUTLINED = 0.9
"""Share of a drawing's outline that has paper beyond it; the gap between a digit and a shadow has less."""

RECTANGULAR = 0.92
"""Share of the smallest rectangle around it that the convex hull of a sheet fills; an ellipse fills 0.79 of it."""

APART, FAR_APART, TOGETHER = 0.25, 0.35, 1.7
"""Parts are several digits with a gap of FAR_APART of the longest piece between them, or with one of APART if together
they reach TOGETHER times as far as the largest part. Of MNIST's 70,000 digits, some of which are broken, 25 do."""

NEIGHBOURS = np.ones((3, 3), bool)
"""A pixel and those around it, also across its corners."""


@dataclass(frozen=True)
class Drawing:
    """Strokes on paper."""

    strokes: Mask
    is_light: bool
    """Whether the strokes are lighter than the paper."""
    is_one: bool
    """Whether they can be a single digit."""

    @property
    def box(self) -> Box:
        """The smallest rectangle around the strokes."""
        return _box(self.strokes)


def ink_on_paper(grey: Pixels) -> Pixels:
    """How much darker each pixel of a drawing is than the paper around it, or lighter if the ink is lighter.

    The paper may be lit unevenly and lie on a table. What touches the border of the picture is not part of the drawing.

    Args:
        grey: the picture, (height, width), from 0 to 255.

    Returns:
        The part of the picture around the drawing, reduced if it is large: 0 on paper, up to 255. All 0 for no drawing.

    Raises:
        UserError: there are several drawings.
    """
    small = _reduced(grey)
    drawing = next((one for window in WINDOWS if (one := _find(small, window * min(small.shape)))), None)
    if drawing is None:
        return np.zeros((1, 1))
    if not drawing.is_one:
        raise UserError("shows several digits; cut it into pictures of one each")
    margin, scale = MARGIN * _side(drawing.box), max(grey.shape) / max(small.shape)
    place = tuple(
        slice(max(0, math.floor((one.start - margin) * scale)), math.ceil((one.stop + margin) * scale))
        for one in drawing.box
    )
    part = _reduced(grey[place])
    ink, grain = _ink(255 - part if drawing.is_light else part, 0.6 * max(part.shape))
    ink[ink <= min(grain / 2, FAINT * ink.max())] = 0
    return np.where(_without_dust(ink > FAINT * ink.max()), ink, 0)


def _reduced(grey: Pixels) -> Pixels:
    """The picture with its larger side at most LARGEST, which also averages a camera's noise."""
    scale = LARGEST / max(grey.shape)
    if scale >= 1:
        return grey
    height, width = (max(1, round(length * scale)) for length in grey.shape)
    resized = Image.fromarray(grey.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized, dtype=np.float64)


def _find(grey: Pixels, window: float) -> Drawing | None:
    """The drawing, dark on light or light on dark; of the two the larger, since the gaps of a digit lie within it."""
    drawings = [one for is_light in (False, True) if (one := _drawn(grey, is_light, window))]
    drawings.sort(key=lambda one: _side(one.box))
    if drawings and _is_sheet(drawings[-1], window, drawings[:-1]):
        drawings.pop()
    return drawings[-1] if drawings else None


def _drawn(grey: Pixels, is_light: bool, window: float) -> Drawing | None:
    """What is darker, or lighter, than the paper all around it."""
    light = 255 - grey if is_light else grey
    ink, grain = _ink(light, window)
    strokes = ink > max(LEAST_CONTRAST, grain, STROKES * ink.max())
    longest = max(map(_side, _pieces(strokes)), default=0)
    if longest < LEAST_SIDE * max(grey.shape):
        return None
    strokes &= _without_dust(strokes)
    strokes, parts = _parts(strokes, APART * longest)
    _, far = _parts(strokes, FAR_APART * longest)
    is_one = len(far) == 1 and (len(parts) == 1 or _side(_box(strokes)) <= TOGETHER * max(map(_side, parts)))
    return Drawing(strokes, is_light, is_one) if _is_outlined(strokes, light) else None


def _parts(strokes: Mask, gap: float) -> tuple[Mask, list[Box]]:
    """What wide gaps divide the strokes into, from half the size of the largest on, and the rectangles around it."""
    groups, _ = ndimage.label(ndimage.maximum_filter(strokes, _odd(gap)), NEIGHBOURS)
    boxes = ndimage.find_objects(np.where(strokes, groups, 0))
    sides = np.array([0, *map(_side, boxes)])
    is_large = sides >= sides.max() / 2
    return strokes & is_large[groups], [box for box, kept in zip(boxes, is_large[1:], strict=True) if kept]


def _ink(light: Pixels, window: float) -> tuple[Pixels, float]:
    """The light that each pixel lacks of the paper's, from 0 to 255, and how much of it paper may lack by its grain.

    The paper is the morphological closing of the picture by a square of `window` pixels, which may stick out of the
    picture: so whatever touches the border counts as paper, however narrow it is.
    """
    size = _odd(window)
    reach = size // 2
    padded = np.pad(light, reach, constant_values=-1)
    paper = ndimage.minimum_filter(ndimage.maximum_filter(padded, size), size)[reach:-reach, reach:-reach]
    lacking = 255 * (paper - light) / np.maximum(paper, max(1, paper.max() / 4))  # in a shadow ink lacks less
    plain = np.percentile(lacking, 25)
    return np.maximum(lacking - plain, 0), GRAIN * (np.median(lacking) - plain)


def _is_outlined(strokes: Mask, light: Pixels) -> bool:
    """Whether it becomes lighter nearly everywhere around the strokes."""
    near = ndimage.binary_dilation(strokes, NEIGHBOURS, 2)
    around = ndimage.binary_dilation(near, NEIGHBOURS) & ~near
    _, nearest = ndimage.distance_transform_edt(~strokes, return_indices=True)
    contrast = 1 - light[tuple(nearest[:, around])] / np.maximum(light[around], 1)
    return bool(np.mean(contrast > STROKES * np.median(contrast)) > OUTLINED)


def _is_sheet(shape: Drawing, window: float, others: list[Drawing]) -> bool:
    """Whether a shape is a sheet of paper: a rectangle, turned by any angle, that is blank or has a drawing on it."""
    holds = any(_side(one.box) > _side(shape.box) / 5 and _is_within(one.box, shape.box) for one in others)
    if not holds and min(one.stop - one.start for one in shape.box) < 0.75 * window:
        return False
    try:
        hull = ConvexHull(np.argwhere(shape.strokes))
    except QhullError:  # all pixels lie in a line
        return False
    angles = np.linspace(0, np.pi, 90, endpoint=False)
    widths = np.ptp(hull.points[hull.vertices] @ np.array([np.cos(angles), np.sin(angles)]), axis=0)
    return bool(hull.volume > RECTANGULAR * (widths * np.roll(widths, 45)).min())


def _without_dust(strokes: Mask) -> Mask:
    """The strokes with the pixels near them, without the pieces that are too small."""
    pieces, _ = ndimage.label(strokes, NEIGHBOURS)
    sides = np.array([0, *map(_side, ndimage.find_objects(pieces))])
    large: Mask = ndimage.binary_dilation((sides > DUST * sides.max())[pieces], NEIGHBOURS, 3)
    return large


def _pieces(strokes: Mask) -> list[Box]:
    """The smallest rectangles around the pieces."""
    boxes: list[Box] = ndimage.find_objects(ndimage.label(strokes, NEIGHBOURS)[0])
    return boxes


def _box(strokes: Mask) -> Box:
    boxes: list[Box] = ndimage.find_objects(strokes.astype(np.uint8))
    return boxes[0]


def _is_within(box: Box, other: Box) -> bool:
    return all(a.start > b.start and a.stop < b.stop for a, b in zip(box, other, strict=True))


def _side(box: Box) -> int:
    return int(max(one.stop - one.start for one in box))


def _odd(length: float) -> int:
    return max(3, int(length) | 1)
