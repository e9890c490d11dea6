"""Stops a run that does worse than others of its sweep."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.distributed.group import from_first
from litlab.errors import Pruned, UserError
from litlab.runs.run import Run


class Pruning(Callback):
    """Reports a metric of each validation, and ends the training if it is told to.

    It belongs behind the callback that keeps the checkpoints, and with them the validations.

    Args:
        run: the run, whose record has the validations.
        metric: what to report.
        hopeless: takes a validation's number, from 0, and the metric; says whether to stop. The first process asks it.
    """

    def __init__(self, run: Run, metric: str, hopeless: Callable[[int, float], bool]) -> None:
        self.run, self.metric = run, metric
        self.hopeless = hopeless

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the newest validation.

        Raises:
            Pruned: the run is to stop.
            UserError: the validation has not measured the metric.
        """
        validations = self.run.record.metrics.validations
        if trainer.sanity_checking:
            return
        measured = validations[-1].metrics if validations else {}
        if self.metric not in measured:
            raise UserError(
                f"sweep.pruner goes by {self.metric}; validation logs {', '.join(sorted(measured)) or 'nothing'}"
            )
        if from_first(lambda: self.hopeless(len(validations) - 1, measured[self.metric])):
            raise Pruned(f"{self.metric} {measured[self.metric]:.4g} after {trainer.global_step} steps")
