"""Keeps `run.json` up to date."""

import logging
import math
from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.callbacks.checkpoints import numbers
from litlab.callbacks.throughput import Throughput
from litlab.engine.metrics import StepMetrics
from litlab.engine.stopping import early_stop
from litlab.runs.run import Run

log = logging.getLogger(__name__)


class RecordRun(Callback):
    """Writes the metrics, the speed and why the training stopped early into the run's record.

    It says once if a validation gives no number.

    Args:
        run: the run whose record it is.
        throughput: what measures the speed.
        metrics: what counts the batches that were dropped.
        keys: the other callbacks by their config keys.
    """

    def __init__(
        self, run: Run, throughput: Throughput, metrics: StepMetrics, keys: Mapping[str, Callback] | None = None
    ) -> None:
        self.run = run
        self.keys = keys or {}
        self.throughput = throughput
        self.metrics = metrics
        self._not_finite: set[str] = set()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say once of each metric of the validation that it is infinite or not a number, which stops no training."""
        measured = {name: value for name, value in numbers(trainer).items() if name not in self.metrics.names}
        for name, value in measured.items():
            if not math.isfinite(value) and name not in self._not_finite:
                self._not_finite.add(name)
                log.warning("%s is %s in the validation after step %d", name, value, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known now."""
        record = self.run.record
        record.metrics.last = numbers(trainer)
        record.training_seconds = self.throughput.seconds
        record.examples_per_second = self.throughput.examples_per_second
        record.skipped_batches = self.metrics.skipped
        record.cuda_graph = trainer.fit_loop.epoch_loop.automatic_optimization.summary()  # type: ignore[attr-defined]
        self.run.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write why the training has stopped, if it was early."""
        self.run.record.reason = early_stop(trainer, self.keys)
