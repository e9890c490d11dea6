"""Photographs and scans, made of test images: each digit is 224 pixels large, on paper of 400."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from digits.picture import mnist_form
from litlab.config import schema
from litlab.config.compose import load
from litlab.data.pictures import read
from litlab.errors import UserError
from litlab.inference.predict import as_batch
from litlab.training.restore import restored

SIZE, DIGIT, COUNT = 400, 224, 100
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE] / SIZE


def ink(digit, chance, size=DIGIT, margin=20):
    """How much of the paper is ink, 0 to 1: a digit somewhere on it."""
    large = np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)) / 255
    sheet = np.zeros((SIZE, SIZE))
    top, left = chance.integers(margin, SIZE - margin - size, 2)
    sheet[top : top + size, left : left + size] = large
    return sheet


def sheet(digit, chance, light=1.0, paper=235, pen=40, **place):
    return (paper + (pen - paper) * ink(digit, chance, **place)) * light


def slope(chance):
    """Distance from a line through the middle, in any direction."""
    angle = chance.uniform(0, 2 * np.pi)
    return (COLUMNS - 0.5) * np.cos(angle) + (ROWS - 0.5) * np.sin(angle)


def soft(chance):
    return 1 - 0.55 / (1 + np.exp(-slope(chance) / 0.08))


def hard(chance):
    return 1 - 0.5 * (slope(chance) > chance.uniform(-0.2, 0.2))


def gradient(chance):
    return np.clip(0.65 + 0.6 * slope(chance), 0.2, 1)


def lamp(chance):
    row, column = chance.uniform(0, 1, 2)
    return 0.3 + 0.7 * np.exp(-((ROWS - row) ** 2 + (COLUMNS - column) ** 2) / 0.4)


def on_table(pixels, chance, table=50, grain=0, turned=0):
    before, after = chance.integers(20, 120, (2, 2)) if not turned else np.full((2, 2), 150)
    place = [(int(one), int(other)) for one, other in zip(before, after, strict=True)]
    is_paper = Image.fromarray(np.pad(np.full(pixels.shape, 255, np.uint8), place)).rotate(turned, Image.BILINEAR)
    turned_paper = Image.fromarray(np.pad(pixels, place, "edge").astype(np.float32)).rotate(turned, Image.BICUBIC)
    share = np.asarray(is_paper) / 255
    return share * np.asarray(turned_paper) + (1 - share) * (table + chance.normal(0, grain, share.shape))


def with_edges(pixels, chance, sides=1, level=10):
    """Strips along the border, where a scanner saw past the paper."""
    for turns in chance.permutation(4)[:sides]:
        np.rot90(pixels, turns)[: int(SIZE * chance.uniform(0.01, 0.04))] = level
    return pixels


def grey(pixels):
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def coloured(digit, chance):
    covered = ink(digit, chance)
    yellow, blue = (240, 220, 90), (30, 40, 140)
    return Image.merge("RGB", [grey(paper + (pen - paper) * covered) for paper, pen in zip(yellow, blue, strict=True)])


def as_taken(picture, **options):
    """The picture as a camera's file gives it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return read(file.getvalue())


def held_sideways(digit, chance):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    return as_taken(grey(sheet(digit, chance, soft(chance))).transpose(Image.Transpose.ROTATE_90), exif=exif)


def tight(digit, chance):
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    cut = 255 - digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(cut).resize((8 * cut.shape[1], 8 * cut.shape[0]), Image.Resampling.BICUBIC)


# Papers, and how many of 100 digits may be read wrong that are read right as MNIST has them.
PAPERS = {
    "clean": (1, lambda d, c: grey(sheet(d, c))),
    "soft shadow": (2, lambda d, c: grey(sheet(d, c, soft(c)))),
    "hard shadow": (3, lambda d, c: grey(sheet(d, c, hard(c)))),
    "gradient": (2, lambda d, c: grey(sheet(d, c, gradient(c)))),
    "lamp": (5, lambda d, c: grey(sheet(d, c, lamp(c)))),
    "faint pencil in a shadow": (2, lambda d, c: grey(sheet(d, c, soft(c), pen=150))),
    "dark table": (2, lambda d, c: grey(on_table(sheet(d, c), c))),
    "black table": (2, lambda d, c: grey(on_table(sheet(d, c), c, table=0))),
    "grainy table": (2, lambda d, c: grey(on_table(sheet(d, c), c, grain=15))),
    "light table": (2, lambda d, c: grey(on_table(sheet(d, c, paper=200), c, table=245))),
    "turned on a table": (5, lambda d, c: grey(on_table(sheet(d, c), c, turned=c.uniform(-15, 15)))),
    "shadow and table": (2, lambda d, c: grey(on_table(sheet(d, c, soft(c)), c, table=90))),
    "scanner's edge": (2, lambda d, c: grey(with_edges(sheet(d, c), c))),
    "scanner's edges": (2, lambda d, c: grey(with_edges(sheet(d, c), c, sides=4))),
    "noise": (2, lambda d, c: grey(sheet(d, c) + c.normal(0, 15, (SIZE, SIZE)))),
    "noise and shadow": (2, lambda d, c: grey(sheet(d, c, soft(c)) + c.normal(0, 10, (SIZE, SIZE)))),
    "coloured paper": (2, coloured),
    "inverted": (1, lambda d, c: grey(sheet(d, c, paper=40, pen=220))),
    "blackboard": (3, lambda d, c: grey(sheet(d, c, gradient(c), paper=60, pen=230) + c.normal(0, 6, (SIZE, SIZE)))),
    "small digit": (3, lambda d, c: grey(sheet(d, c, soft(c), size=56) + c.normal(0, 4, (SIZE, SIZE)))),
    "large photograph": (2, lambda d, c: grey(on_table(sheet(d, c, soft(c)), c)).resize((1500, 1400))),
    "JPEG": (2, lambda d, c: as_taken(grey(sheet(d, c, soft(c))), quality=40)),
    "held sideways": (2, held_sideways),
    "tight": (10, tight),
}


@pytest.fixture(scope="module")
def network(a_run):
    """Gives the digits that the run's network sees in images (N, 28, 28)."""
    data, module = restored(load(a_run / "config.yaml", schema.Train), a_run / "checkpoints" / "best.ckpt")
    module.eval()

    def answers(images):
        with torch.inference_mode():
            return module(as_batch(data, torch.from_numpy(np.stack(images)).unsqueeze(1))).argmax(1)

    return answers


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_photograph_is_read_about_as_well_as_the_digit_itself(network, test_set, paper):
    fewer, photograph = PAPERS[paper]
    chance = np.random.default_rng(0)
    digits, labels = test_set[0][:COUNT, 0].numpy(), test_set[1][:COUNT]
    forms = []
    for digit in digits:
        try:
            forms.append(mnist_form(photograph(digit, chance)))
        except UserError:
            forms.append(np.zeros((28, 28), np.uint8))  # an answer that is missing is wrong
    plain, right = (int((network(images) == labels).sum()) for images in (digits, np.stack(forms)))
    assert right >= plain - fewer


def in_line(digits, axis=1):
    row = np.concatenate([np.pad(digit, 3) for digit in digits], axis)
    sheet = Image.fromarray(np.pad(255 - row, 14, constant_values=255))
    return sheet.resize([4 * side for side in sheet.size])


def pair(digit, other):
    """Two digits in one square."""
    both = np.zeros((56, 56), np.uint8)
    both[:28, :28], both[28:, 28:] = digit, other
    return both


def equally_bright(digit, chance):
    """Red paper and green ink that are one grey."""
    covered = ink(digit, chance)
    return Image.merge("RGB", [grey(200 - 100 * covered), grey(100 + 51 * covered), grey(100 + 0 * covered)])


NO_INK = "shows no digit that stands out from the paper all around it"
SEVERAL = "shows several digits; cut it into pictures of one each"

REFUSED = {
    "side by side": (SEVERAL, lambda d, e, c: in_line([d, e])),
    "one below the other": (SEVERAL, lambda d, e, c: in_line([d, e], axis=0)),
    "three in a row": (SEVERAL, lambda d, e, c: in_line([d, e, d])),
    "at a slant": (SEVERAL, lambda d, e, c: grey(sheet(pair(d, e), c, soft(c), size=320))),
    "two on a table": (SEVERAL, lambda d, e, c: grey(on_table(sheet(pair(d, e), c, size=320), c))),
    "ink as bright as the paper": (NO_INK, lambda d, e, c: equally_bright(d, c)),
    "also in a JPEG": (NO_INK, lambda d, e, c: as_taken(equally_bright(d, c))),
    "noise": (NO_INK, lambda d, e, c: grey(235 + c.normal(0, 15, (SIZE, SIZE)))),
    "a soft shadow": (NO_INK, lambda d, e, c: grey(235 * soft(c))),
    "a hard shadow": (NO_INK, lambda d, e, c: grey(235 * hard(c))),
    "noise and shadow": (NO_INK, lambda d, e, c: grey(235 * soft(c) + c.normal(0, 6, (SIZE, SIZE)))),
    "paper on a table": (NO_INK, lambda d, e, c: grey(on_table(np.full((SIZE, SIZE), 235), c))),
    "turned paper on a table": (NO_INK, lambda d, e, c: grey(on_table(np.full((SIZE, SIZE), 235), c, turned=9))),
    "scanner's edges": (NO_INK, lambda d, e, c: grey(with_edges(np.full((SIZE, SIZE), 235), c, sides=2))),
}


@pytest.mark.parametrize("content", REFUSED)
def test_what_shows_no_single_digit_is_said(test_set, content):
    line, photograph = REFUSED[content]
    chance = np.random.default_rng(0)
    for digit, other in test_set[0][:20, 0].numpy().reshape(10, 2, 28, 28):
        with pytest.raises(UserError) as error:
            mnist_form(photograph(digit, other, chance))
        assert str(error.value) == line
