"""Stops a run that does worse than others of its sweep."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.callbacks.checkpoints import Checkpoints
from litlab.distributed.group import broadcast_from_rank_zero
from litlab.errors import Pruned, UserError


class Pruning(Callback):
    """Reports a metric of each validation, and ends the training if it is told to.

    It belongs behind the callback that keeps the checkpoints, whose run has the validations.

    Args:
        metric: what to report.
        should_prune: takes a validation's number, counted from 0, and the metric; says whether to stop. Only the
            process with rank 0 asks it, so it does not travel to the others.
    """

    def __init__(self, metric: str, should_prune: Callable[[int, float], bool]) -> None:
        self.metric = metric
        self.should_prune = should_prune

    def __getstate__(self) -> dict[str, Any]:
        return {"metric": self.metric}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the newest validation.

        Raises:
            Pruned: the run is to stop.
            UserError: the validation has not measured the metric.
        """
        if trainer.sanity_checking:
            return
        validations = Checkpoints.of(trainer).run.record.metrics.validations
        measured = validations[-1].metrics if validations else {}
        if self.metric not in measured:
            raise UserError(
                f"sweep.pruner goes by {self.metric}; validation logs {', '.join(sorted(measured)) or 'nothing'}"
            )
        if broadcast_from_rank_zero(lambda: self.should_prune(len(validations) - 1, measured[self.metric])):
            raise Pruned(f"{self.metric} {measured[self.metric]:.4g} after {trainer.global_step} steps")
