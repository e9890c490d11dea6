"""What the tutorial prints while it trains."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from digits.mnist import MNISTDataModule, decoded

log = logging.getLogger(__name__)


class RunningTestAccuracy(Callback):
    """Prints the network at the start, and every few steps the loss of the batch and the accuracy on test images.

    To watch the test set while training is the tutorial's way, not a good one: nothing may be chosen by it.
    """

    def __init__(self, every_n_steps: int, images: int) -> None:
        self.every_n_steps = every_n_steps
        self.images = images

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the network and take the test images."""
        data: MNISTDataModule = trainer.datamodule  # type: ignore[attr-defined]
        images, labels = decoded(data.dir, False, pl_module.device)
        self.batch = data.on_after_batch_transfer((images[: self.images], labels[: self.images]), 0)
        log.info(pl_module.net)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print and log the accuracy after steps 0, 50, 100 …, as the tutorial counts them."""
        if batch_idx % self.every_n_steps:
            return
        images, labels = self.batch
        with torch.no_grad():
            accuracy = (pl_module(images).argmax(1) == labels).float().mean()
        name = f"test/acc_first_{self.images}"
        # For the record; into the curve Lightning would write it again at every step until the next look.
        pl_module.log(name, accuracy, logger=False)
        for logger in trainer.loggers:
            logger.log_metrics({name: accuracy.item()}, step=trainer.global_step - 1)
        loss = outputs["loss"].item()
        log.info("Epoch:  %d | train loss: %.4f | test accuracy: %.2f", trainer.current_epoch, loss, accuracy)
