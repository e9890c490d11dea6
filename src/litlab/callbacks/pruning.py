"""Stops a run that does worse than others of its sweep."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.errors import Pruned
from litlab.runs.run import Run


class Pruning(Callback):
    """Reports the monitored metric of each validation, and ends the training if it is told to.

    It belongs behind the callback that keeps the checkpoints, and with them the validations.

    Args:
        run: the run, whose record has the validations.
        hopeless: takes a validation's number, from 0, and the metric; says whether to stop.
    """

    def __init__(self, run: Run, hopeless: Callable[[int, float], bool]) -> None:
        self.run = run
        self.hopeless = hopeless

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the newest validation.

        Raises:
            Pruned: the run is to stop.
        """
        metrics = self.run.record.metrics
        if trainer.sanity_checking or metrics.monitor is None:
            return
        number, value = len(metrics.validations) - 1, metrics.validations[-1].metrics[metrics.monitor]
        if self.hopeless(number, value):
            raise Pruned(f"{metrics.monitor} {value:.4g} after {trainer.global_step} steps")
