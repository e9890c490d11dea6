"""The curve of the learning rate."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LearningRate(Callback):
    """Logs `learning_rate` at each step.

    Lightning's own monitor names the curve after the optimizer, so that runs with Adam and with SGD share no chart,
    and refuses to run without a logger.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the rate of the coming step; of several groups, the first one's."""
        pl_module.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
