"""Augmentation of whole batches, on the device that trains."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from litlab.errors import UserError

SAME_FOR_EACH = frozenset(
    {
        "CenterCrop",
        "GaussianNoise",  # it draws, but for each pixel
        "Grayscale",
        "Identity",
        "LinearTransformation",
        "Normalize",
        "Pad",
        "RGB",
        "Resize",
        "ToDtype",
    }
)
"""Transforms of torchvision that do the same to a batch as to each of its images."""

NEED_LABELS = frozenset({"CutMix", "MixUp"})
"""Transforms of torchvision that change the labels, too."""


class Affine(nn.Module):
    """Turns, stretches, slants and shifts each image of a batch on its own, by amounts drawn evenly from a range.

    Everything is drawn by PyTorch's generator of the images' device and nothing waits for the device, so that it can be
    part of a CUDA graph; kornia's RandomAffine draws on the CPU.

    Args:
        degrees: largest rotation, either way.
        translate: largest shift, either way, across and down, in pixels.
        scale: largest change of the size, either way, as a share of it.
        shear: largest sideways shift of a row, either way, as a share of its height above the middle.
    """

    def __init__(self, degrees: float, translate: float, scale: float, shear: float) -> None:
        super().__init__()
        self.degrees = degrees
        self.translate = translate
        self.scale = scale
        self.shear = shear

    def forward(self, images: Tensor) -> Tensor:
        """Square images (N, channels, size, size), float; what comes in from outside takes the colour of the border."""
        with torch.autocast(images.device.type, enabled=False):  # places need more digits than bfloat16 has
            grid = affine_grid(self.matrices(images), list(images.shape), align_corners=False)
            return grid_sample(images, grid, padding_mode="border", align_corners=False)

    def matrices(self, images: Tensor) -> Tensor:
        """For each image the map from where a pixel goes to where it comes from, in halves of the size: (N, 2, 3)."""
        amounts = torch.rand(5, len(images), device=images.device) * 2 - 1
        angle = amounts[0] * (self.degrees * torch.pi / 180)
        size = 1 + amounts[1] * self.scale
        shear = amounts[2] * self.shear
        across, down = amounts[3:] * (2 * self.translate / images.shape[-1])
        cosine, sine = angle.cos() / size, angle.sin() / size
        rows = [cosine, cosine * shear - sine, across, sine, sine * shear + cosine, down]
        return torch.stack(rows, dim=1).view(-1, 2, 3)


def on_each_image(augment: Any) -> Any:
    """The augmentation, in which transforms of torchvision are applied to each image of a batch on its own.

    They draw once a call, so that they would do the same to all images of a batch.

    Args:
        augment: a transform of torchvision, or a module that has such among its parts.

    Raises:
        UserError: a transform needs more than images.
    """
    if _is_torchvisions(augment):
        if name := next((name for name in _names(augment) if name in NEED_LABELS), None):
            raise UserError(f"augment: {name} needs the labels, too; call it on the batch in training_step instead")
        return EachImage(augment)
    if isinstance(augment, nn.Module):
        for name, part in list(augment.named_children()):
            setattr(augment, name, on_each_image(part))
    return augment


class EachImage(nn.Module):
    """Applies a transform of torchvision to each image of a batch (N, channels, height, width) on its own.

    One that cannot draw is applied to the batch as a whole, and any to a single image (channels, height, width).
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform
        self.takes_batch = not _may_draw(transform)

    def forward(self, images: Tensor) -> Tensor:
        """Transform the images.

        Raises:
            UserError: the transform does not take images in memory, or does not give images of one size.
        """
        whole = self.takes_batch or images.ndim < 4
        try:
            with torch.autocast(images.device.type, enabled=False):  # places need more digits than bfloat16 has
                changed = [self.transform(image) for image in ([images] if whole else images)]
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            if not _is_raised_by_frameworks(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"augment: {self._name} cannot change the images of a batch: {reason}") from error
        if others := {type(image).__name__ for image in changed if not isinstance(image, Tensor)}:
            raise UserError(f"augment: {self._name} gives a {others.pop()} instead of an image tensor; leave it out")
        sizes = {"x".join(map(str, image.shape)) for image in changed}
        if len(sizes) > 1:
            some = " and ".join(sorted(sizes)[:2])
            raise UserError(f"augment: {self._name} gives images of several sizes, such as {some}; let a Resize follow")
        return changed[0] if whole else torch.stack(changed)

    @property
    def _name(self) -> str:
        outer, *inner = _names(self.transform)
        return f"{outer} of {', '.join(inner)}" if inner else outer


def _is_torchvisions(transform: Any) -> bool:
    """Whether a transform is one of torchvision's, or of a class made from one."""
    return any(base.__module__.startswith("torchvision.transforms") for base in type(transform).__mro__)


def _names(transform: Any) -> list[str]:
    """The names of a transform's class and of those in it."""
    return [type(transform).__name__, *(name for part in _parts(transform) for name in _names(part))]


def _may_draw(transform: Any) -> bool:
    if not type(transform).__module__.startswith("torchvision.transforms"):
        return True
    name = type(transform).__name__
    return any(map(_may_draw, _parts(transform))) if name == "Compose" else name not in SAME_FOR_EACH


def _parts(transform: Any) -> list[Any]:
    parts = getattr(transform, "transforms", ())
    return list(parts) if isinstance(parts, list | tuple | nn.ModuleList | nn.Sequential) else []


def _is_raised_by_frameworks(error: Exception) -> bool:
    """Whether no code but PyTorch's and torchvision's stands between the transform's call and the error."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    places = [Path(frame.filename).parts for frame in frames if frame.filename != __file__]
    return all("torch" in parts or "torchvision" in parts for parts in places)
