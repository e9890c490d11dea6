"""Augmentation of whole batches, on the device that trains."""

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample


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
