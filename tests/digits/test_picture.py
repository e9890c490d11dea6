import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from digits.mnist import MNISTDataModule
from digits.picture import mnist_form
from litlab.errors import UserError


@pytest.fixture(scope="module")
def digits(test_set):
    """The first 500 test images, (500, 28, 28)."""
    return test_set[0][:500, 0].numpy()


def with_opacity(grey, opacity):
    return Image.merge(
        "LA", [Image.fromarray(np.array(np.broadcast_to(np.uint8(grey), opacity.shape))), opacity_of(opacity)]
    )


def opacity_of(values):
    return Image.fromarray(values.astype(np.uint8))


def cropped(digit):
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def form(picture):
    return mnist_form(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))


def test_all_test_images_but_those_cut_off_at_an_edge_come_out_as_they_are(test_set):
    images = test_set[0][:, 0].numpy()
    moved = [index for index, image in enumerate(images) if not np.array_equal(form(image), image)]
    assert moved == [4530, 9300, 9302]
    assert all(images[index][-1].max() > 250 for index in moved)


ROUND = np.pad(np.full((26, 26), 255), 1, constant_values=255)
ROUND[[0, 0, -1, -1], [0, -1, 0, -1]] = 0

SAME = {
    "dark on light": lambda digit: 255 - digit,
    "black on nothing": lambda digit: with_opacity(0, digit),
    "white on nothing": lambda digit: with_opacity(255, digit),
    "black on nothing, without a margin": lambda digit: with_opacity(0, cropped(digit)),
    "white on nothing, without a margin": lambda digit: with_opacity(255, cropped(digit)),
    "all opaque": lambda digit: with_opacity(255 - digit, np.full_like(digit, 255)),
    "on a card with round corners": lambda digit: with_opacity(255 - digit, ROUND),
    "in three colours": lambda digit: Image.fromarray(digit).convert("RGB"),
    "in a corner of a large sheet": lambda digit: np.pad(255 - digit, ((2, 90), (50, 1)), constant_values=255),
}


@pytest.mark.parametrize("drawn", SAME)
def test_drawn_otherwise_they_come_out_the_same(digits, drawn):
    assert [index for index, digit in enumerate(digits) if not np.array_equal(form(SAME[drawn](digit)), digit)] == []


@pytest.mark.parametrize("dark", [False, True])
def test_without_a_margin_nearly_all_do(digits, dark):
    pictures = [255 - cropped(digit) if dark else cropped(digit) for digit in digits]
    same = [np.array_equal(form(picture), digit) for picture, digit in zip(pictures, digits, strict=True)]
    # Of some an edge is mostly ink, and varies more than paper does.
    assert sum(same) >= 490


def grown(digit, times):
    return np.asarray(Image.fromarray(digit).resize((28 * times, 28 * times), Image.Resampling.BICUBIC))


def mean_difference(pictures, digits):
    return np.mean(
        [np.abs(form(one).astype(float) - digit).mean() for one, digit in zip(pictures, digits, strict=True)]
    )


@pytest.mark.parametrize("times", [2, 3, 9])
def test_larger_ones_differ_by_less_than_half_of_what_a_step_aside_makes(digits, times):
    step = np.abs(np.roll(digits, 1, axis=2).astype(float) - digits).mean()
    assert mean_difference([255 - grown(digit, times) for digit in digits], digits) < step / 2


def test_grain_and_low_contrast_make_little_difference(digits):
    chance = np.random.default_rng(0)
    grainy = [
        (chance.normal(180, 8, (140, 140)) - 110 / 255 * grown(digit, 5)).clip(0, 255).astype(np.uint8)
        for digit in digits[:100]
    ]
    assert mean_difference(grainy, digits[:100]) < 8


@pytest.mark.parametrize("size", [(1000, 3), (3, 1000), (2, 1000), (1000, 200)])
def test_the_larger_side_fills_the_box_and_the_ink_is_full(size):
    sheet = np.zeros((1400, 1400), np.uint8)
    sheet[100 : 100 + size[0], 200 : 200 + size[1]] = 90
    image = form(sheet)
    assert image.max() == 255
    assert max(cropped(image).shape) == 20


BLANK = {
    "black": np.zeros((28, 28), np.uint8),
    "white": np.full((300, 200), 255, np.uint8),
    "one pixel": np.full((1, 1), 7, np.uint8),
    "a shade": np.linspace(100, 110, 400).astype(np.uint8).reshape(20, 20),
    "nothing": Image.new("RGBA", (30, 30)),
    "an opaque colour": Image.new("RGBA", (30, 30), "red"),
}


@pytest.mark.parametrize("picture", BLANK.values(), ids=BLANK)
def test_what_is_blank_is_refused(picture):
    with pytest.raises(UserError, match="^is blank$"):
        form(picture)


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 4]))),
)
def test_of_any_picture_there_is_an_image_with_ink_or_none(pixels):
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    channels = [Image.fromarray(np.ascontiguousarray(pixels[..., index])) for index in range(pixels.shape[2])]
    try:
        image = form(Image.merge(mode, channels))
    except UserError:
        return
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert image.max() >= 254
    assert max(cropped(image).shape) <= 20


def test_the_data_module_reads_pictures_so(mnist_dir, digits):
    data = MNISTDataModule(str(mnist_dir))
    image = data.read_picture(Image.fromarray(255 - digits[0]))
    assert image.shape == (1, 28, 28)
    assert np.array_equal(image[0].numpy(), digits[0])
