import numpy as np
import pytest
from PIL import Image

from digits.picture import mnist_form


@pytest.fixture(scope="module")
def digits(test_set):
    """The first 500 test images, (500, 28, 28)."""
    return test_set[0][:500, 0].numpy()


def with_opacity(grey, opacity):
    return Image.merge(
        "LA", [Image.fromarray(np.broadcast_to(np.uint8(grey), opacity.shape)), Image.fromarray(opacity)]
    )


def cropped(digit):
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_all_test_images_come_out_as_they_are(test_set):
    images = test_set[0][:, 0].numpy()
    assert all(np.array_equal(mnist_form(Image.fromarray(image)), image) for image in images)


SAME = {
    "dark on light": lambda digit: Image.fromarray(255 - digit),
    "black on nothing": lambda digit: with_opacity(0, digit),
    "white on nothing": lambda digit: with_opacity(255, digit),
    "black on nothing, cropped": lambda digit: with_opacity(0, cropped(digit)),
    "opaque, though it could be transparent": lambda digit: with_opacity(255 - digit, np.full_like(digit, 255)),
    "in colour": lambda digit: Image.fromarray(digit).convert("RGB"),
    "on a card with round corners": lambda digit: with_opacity(
        255 - digit, np.pad(np.full((26, 26), 255, np.uint8), 1, constant_values=255) - corners()
    ),
    "in a corner of a larger sheet": lambda digit: Image.fromarray(np.pad(digit, ((2, 90), (50, 1)))),
}


def corners():
    opacity = np.zeros((28, 28), np.uint8)
    opacity[[0, 0, -1, -1], [0, -1, 0, -1]] = 255
    return opacity


@pytest.mark.parametrize("drawn", SAME)
def test_drawn_otherwise_they_come_out_the_same(digits, drawn):
    differing = [digit for digit in digits if not np.array_equal(mnist_form(SAME[drawn](digit)), digit)]
    assert not differing
