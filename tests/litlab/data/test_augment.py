import math

import pytest
import torch
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from litlab.data.augment import Affine, on_each_image
from litlab.errors import UserError

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


class OwnTransform(v2.Transform):
    """One of torchvision's kind."""

    def make_params(self, flat_inputs):
        return {"shift": int(torch.randint(1, 20, ()))}

    def transform(self, inpt, params):
        return inpt.roll(params["shift"], -1)


class OwnModule(nn.Module):
    """Has transforms among its parts."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(v2.RandomRotation(90), nn.Identity())

    def forward(self, images):
        return self.parts(images)


DRAW = {
    "a flip": v2.RandomHorizontalFlip(),
    "a flip up and down": v2.RandomVerticalFlip(),
    "a rotation": v2.RandomRotation(90),
    "an affine map": v2.RandomAffine(30, translate=(0.2, 0.2)),
    "a crop": v2.RandomResizedCrop(28),
    "a perspective": v2.RandomPerspective(p=1.0),
    "elastic": v2.ElasticTransform(),
    "erasing": v2.RandomErasing(p=1.0),
    "inversion": v2.RandomInvert(),
    "blurring": v2.GaussianBlur(5, (0.1, 3.0)),
    "noise": v2.GaussianNoise(),
    "colours": v2.ColorJitter(brightness=0.9),
    "one of a random kind": v2.RandomChoice([v2.RandomRotation(90), v2.RandomInvert(1.0)]),
    "several": v2.Compose([v2.Normalize([0.5], [0.5]), v2.RandomRotation(90)]),
    "in Compose, a function": v2.Compose([lambda image: image.roll(int(torch.randint(1, 20, ())), -1)]),
    "perhaps": v2.RandomApply([v2.RandomInvert(1.0)], p=0.5),
    "a function": v2.Lambda(lambda image: image * torch.rand(())),
    "AutoAugment": v2.TrivialAugmentWide(),
    "the older interface": v1.RandomRotation(90),
    "the older Compose": v1.Compose([v1.RandomHorizontalFlip()]),
    "a class of one's own": OwnTransform(),
    "parts of a module of one's own": OwnModule(),
}


@pytest.mark.parametrize("name", DRAW)
def test_transforms_of_torchvision_draw_for_each_image(test_set, name):
    image = test_set[0][1].float() / 255  # a 2, which is symmetric in no way
    torch.manual_seed(0)
    changed = on_each_image(DRAW[name])(image.expand(50, 1, 28, 28))
    assert changed.shape == (50, 1, 28, 28)
    assert len({tuple(one.flatten().tolist()) for one in changed}) > 1


@pytest.mark.parametrize(
    "still",
    [
        v2.Normalize([0.1], [0.3]),
        v2.Resize(20),
        v2.CenterCrop(20),
        v2.Pad(2),
        v2.Grayscale(3),
        v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.ToDtype(torch.float32, scale=True)]),
    ],
    ids=lambda still: type(still).__name__,
)
def test_what_cannot_draw_is_applied_to_the_batch(digits, still):
    calls = []
    still.register_forward_pre_hook(lambda *_: calls.append(1))
    changed = on_each_image(still)(digits)
    assert len(calls) == 1
    assert torch.equal(changed, torch.stack([still(image) for image in digits]))


def test_in_bfloat16_images_keep_their_digits(digits):
    turn = v2.RandomAffine((30, 30), interpolation=InterpolationMode.BILINEAR)
    with torch.autocast("cpu", torch.bfloat16):
        changed = on_each_image(turn)(digits)
    assert changed.dtype == torch.float32
    assert torch.equal(changed, torch.stack([turn(image) for image in digits]))


def test_a_single_image_stays_one(digits):
    assert torch.equal(on_each_image(v2.RandomInvert(1.0))(digits[0]), 1 - digits[0])


@pytest.mark.filterwarnings("ignore:The image decoding and encoding")
@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.MixUp(num_classes=10), "MixUp needs the labels, too; call it on the batch in training_step"),
        (v2.RandomApply([v2.CutMix(num_classes=10)]), "CutMix needs the labels"),
        (v2.RandomResize(20, 40), "RandomResize gives images of several sizes, such as 1x.*let a Resize follow"),
        (v2.TenCrop(20), "TenCrop gives a tuple instead of an image tensor"),
        (v2.ToPILImage(), "ToPILImage gives a Image instead"),
        (v2.JPEG(50), "JPEG cannot change the images of a batch"),
        (v2.RandomIoUCrop(), "RandomIoUCrop cannot change the images of a batch: .*bounding boxes"),
        (v2.Compose([v2.RandomInvert(), v2.RandomCrop(40)]), "Compose of RandomInvert, RandomCrop cannot .*crop size"),
    ],
)
def test_what_does_not_fit_a_batch_is_refused_by_name(digits, transform, message):
    with pytest.raises(UserError, match=message):
        on_each_image(transform)(digits)


def test_an_error_in_a_users_own_transform_keeps_its_traceback(digits):
    with pytest.raises(ZeroDivisionError):
        on_each_image(v2.Lambda(lambda image: image * (1 / 0)))(digits)
    with pytest.raises(RuntimeError, match="must match"):
        on_each_image(v2.Lambda(lambda image: image + torch.ones(3)))(digits)
