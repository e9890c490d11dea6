"""Progress for a log file or a pipe."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class EpochLines(Callback):
    """One line an epoch, where there is no terminal to draw a progress bar on."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics."""
        metrics = ", ".join(f"{name} {value.item():.5g}" for name, value in sorted(trainer.callback_metrics.items()))
        log.info("epoch %d: %s", trainer.current_epoch, metrics)
