"""What the network is shown while it learns."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from litlab.callbacks.predictions import class_names, colours, is_classified
from litlab.views.board import DrawnOnce, writers
from litlab.views.figures import tiles


class TrainingBatch(DrawnOnce):
    """Draws the first images of a training batch with their labels, after the module's `augment`, if it has one.

    Args:
        images: how many.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the first batch that passes here."""
        if self.drawn or not is_classified(batch):
            return
        self.drawn = True
        images, labels = batch
        augment = getattr(pl_module, "augment", None)
        if callable(augment):
            devices = [images.device] if images.is_cuda else []
            with torch.random.fork_rng(devices):  # what the training draws stays the same
                images = augment(images)
        known = class_names(trainer, int(labels.max()) + 1)
        captions = [known[label] for label in labels[: self.images].tolist()]
        for writer in writers(trainer):
            figure = tiles(colours(images[: self.images]), captions, "training images, augmented")
            writer.add_figure("train/batch", figure, trainer.global_step)
