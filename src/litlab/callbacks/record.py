"""Keeps `run.json` up to date."""

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab.callbacks.checkpoints import numbers
from litlab.callbacks.throughput import Throughput
from litlab.engine.metrics import StepMetrics
from litlab.runs.run import Run


class RecordRun(Callback):
    """Writes the metrics and the speed into the run's record after each epoch."""

    def __init__(self, run: Run, throughput: Throughput, metrics: StepMetrics) -> None:
        self.run = run
        self.throughput = throughput
        self.metrics = metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known now."""
        record = self.run.record
        record.metrics.last = numbers(trainer)
        record.training_seconds = self.throughput.seconds
        record.images_per_second = self.throughput.images_per_second
        record.skipped_batches = self.metrics.skipped
        self.run.save()
