"""Pictures with words in them, readable at the size at which TensorBoard shows them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torchvision.utils import make_grid

WIDTH = 4.0
"""Inches of 100 pixels; TensorBoard shows pictures about 350 pixels wide."""

COLUMNS = 4


def tiles(images: Tensor, captions: Sequence[str], title: str, columns: int = COLUMNS) -> Figure:
    """Images (N, 1 or 3, height, width) of any range of values in rows, each with its caption above it."""
    *_, height, width = images.shape
    lines = max(caption.count("\n") + 1 for caption in captions)
    gap = round(width * 0.18 * lines) + 1  # room for the captions, in pixels of the images
    images = images.float().cpu()
    missing = -len(images) % columns  # a row is filled up with white: of a single image no grid would be made
    images = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, missing), value=float(images.max()))
    grid = make_grid(images, columns, padding=gap, normalize=True, pad_value=1.0)
    inches = WIDTH * columns / COLUMNS
    figure = Figure(figsize=(inches, inches * grid.shape[1] / grid.shape[2] + 0.3))
    axes = bare_axes(figure, title)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    for index, caption in enumerate(captions):
        row, column = divmod(index, columns)
        x = gap + column * (width + gap) + width / 2
        y = gap + row * (height + gap) - 1
        axes.text(x, y, caption, ha="center", va="bottom", fontsize=9, linespacing=1.0, parse_math=False)
    return figure


def bare_axes(figure: Figure, title: str) -> Axes:
    """Axes that fill the figure below its title."""
    top = 1 - 0.3 / figure.get_figheight()
    axes = figure.add_axes((0, 0, 1, top))
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    return axes
