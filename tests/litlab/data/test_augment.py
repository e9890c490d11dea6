import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from litlab.data.augment import Affine

NOTHING = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0}


@pytest.fixture
def digits(test_set):
    return test_set[0][:64].float() / 255


def extreme(monkeypatch, *amounts):
    """Make every image get these amounts, as shares of the largest: rotation, size, shear, across, down."""
    drawn = torch.tensor(amounts).view(5, 1)
    monkeypatch.setattr(torch, "rand", lambda rows, images, device: (drawn.expand(rows, images) + 1) / 2)


def test_nothing_changes_nothing(digits):
    assert Affine(**NOTHING)(digits).allclose(digits, atol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shifts_by_whole_pixels(digits, monkeypatch, sign):
    extreme(monkeypatch, 0, 0, 0, sign, 0)
    moved = Affine(**NOTHING | {"translate": 2.0})(digits)
    assert moved[..., 4:-4].allclose(digits.roll(int(-2 * sign), dims=-1)[..., 4:-4], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "amounts", "expected"),
    [
        ({"degrees": 15.0}, (1, 0, 0, 0, 0), {"angle": -15.0, "scale": 1.0, "shear": [0.0, 0.0]}),
        ({"scale": 0.15}, (0, 1, 0, 0, 0), {"angle": 0.0, "scale": 1.15, "shear": [0.0, 0.0]}),
        ({"scale": 0.15}, (0, -1, 0, 0, 0), {"angle": 0.0, "scale": 0.85, "shear": [0.0, 0.0]}),
        ({"shear": 0.2}, (0, 0, 1, 0, 0), {"angle": 0.0, "scale": 1.0, "shear": [math.degrees(math.atan(0.2)), 0.0]}),
    ],
)
def test_does_what_torchvision_does(digits, monkeypatch, settings, amounts, expected):
    extreme(monkeypatch, *amounts)
    moved = Affine(**NOTHING | settings)(digits)
    reference = affine(digits, translate=[0, 0], interpolation=InterpolationMode.BILINEAR, **expected)
    inner = slice(3, -3)  # what comes in from outside is black there and the border's colour here
    assert (moved - reference)[..., inner, inner].abs().max() < 0.02


def test_each_image_moves_its_own_way_within_the_range(digits):
    torch.manual_seed(0)
    matrices = Affine(degrees=15, translate=2, scale=0.15, shear=0.2).matrices(digits)
    assert len(set(map(tuple, matrices.flatten(1).tolist()))) == 64
    assert matrices[:, 0, 2].abs().max() <= 2 * 2 / 28
    sizes = torch.linalg.det(matrices[:, :, :2]).rsqrt()
    assert 0.85 <= sizes.min() < 0.87
    assert 1.13 < sizes.max() <= 1.15


def test_depends_on_the_seed_alone(digits):
    augment = Affine(degrees=15, translate=2, scale=0.15, shear=0.2)
    torch.manual_seed(1)
    first = augment(digits)
    again = augment(digits)
    torch.manual_seed(1)
    assert torch.equal(augment(digits), first)
    assert not torch.equal(again, first)
