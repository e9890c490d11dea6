"""What the first layer looks for."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torchvision.utils import make_grid
from typing_extensions import override

from litlab.callbacks.guard import undisturbed
from litlab.callbacks.predictions import colours
from litlab.views.board import boards

MAGNIFIED = 12
"""Pixels in which one weight is shown, across and down."""

MOST_DRAWN = 64
"""Filters that are drawn; a large network has thousands."""


class Filters(Callback):
    """Draws the first filters of the first convolution at the start and after each epoch; grey is zero.

    Black and white are as far from it as the filter's largest weight.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._draw(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
        if first is None or isinstance(first.weight, UninitializedParameter) or not boards(trainer):
            return
        with undisturbed(first):  # a weight may be computed: spectral normalization iterates when it is looked at
            picture = filters(first.weight[:MOST_DRAWN].detach().float().cpu())
        for board in boards(trainer):
            board.add_image("filters", picture, trainer.global_step)


def filters(weights: Tensor) -> Tensor:
    """Weights (filters, channels, height, width) as one picture (3, height, width), uint8; eight filters in a row."""
    weights = colours(weights)
    weights = weights / weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo().tiny)
    large = weights.repeat_interleave(MAGNIFIED, 2).repeat_interleave(MAGNIFIED, 3)
    grid = make_grid(large, nrow=8, padding=4, normalize=True, value_range=(-1.0, 1.0), pad_value=1.0)
    return torch.round(grid * 255).byte()
