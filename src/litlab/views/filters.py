"""What the first layer looks for."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchvision.utils import make_grid

from litlab.callbacks.predictions import colours
from litlab.views.board import writers

MAGNIFIED = 12
"""Pixels in which one weight is shown, across and down."""


class Filters(Callback):
    """Draws the filters of the first convolution at the start and after each epoch; grey is zero."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them as they were made."""
        if trainer.global_step == 0:
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what they have become."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
        if first is None or not writers(trainer):
            return
        weights = colours(first.weight.detach().float().cpu())
        large = weights.repeat_interleave(MAGNIFIED, 2).repeat_interleave(MAGNIFIED, 3)
        most = float(weights.abs().max())
        grid = make_grid(large, nrow=8, padding=4, normalize=True, value_range=(-most, most), pad_value=1.0)
        for writer in writers(trainer):
            writer.add_image("filters", torch.round(grid * 255).byte(), trainer.global_step)
