"""Keeps `run.json` up to date."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from litlab.callbacks.throughput import Throughput
from litlab.errors import UserError
from litlab.runs.run import Run


class RecordRun(Callback):
    """Writes the metrics, the best ones and the speed into the run's record after each epoch."""

    def __init__(self, run: Run, best: ModelCheckpoint | None, throughput: Throughput) -> None:
        self.run = run
        self.best = best
        self.monitor = best.monitor if best else None
        self.throughput = throughput
        run.record.metrics.monitor = self.monitor

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say before the first epoch, not after it, that the monitored metric does not exist."""
        self._require_monitor(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the same where there is no validation at all."""
        if not any(trainer.num_val_batches):
            self._require_monitor(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics of those weights that the checkpoint, whose turn comes next, will keep."""
        if self.best is None or self.monitor is None or trainer.sanity_checking:
            return
        self._require_monitor(trainer)
        if self.best.check_monitor_top_k(trainer, trainer.callback_metrics[self.monitor]):
            metrics = self.run.record.metrics
            stage = self.monitor.rpartition("/")[0]
            metrics.best = {name: value for name, value in numbers(trainer).items() if name.startswith(stage)}
            metrics.best_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known now."""
        self.run.record.metrics.last = numbers(trainer)
        self.run.record.training_seconds = self.throughput.seconds
        self.run.record.images_per_second = self.throughput.images_per_second
        self.run.save()

    def _require_monitor(self, trainer: Trainer) -> None:
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            logged = ", ".join(trainer.callback_metrics)
            hint = f"validation logs {logged}" if logged else "there is no validation data; set checkpoint.monitor=null"
            raise UserError(f"checkpoint.monitor={self.monitor}: no such metric; {hint}")


def numbers(trainer: Trainer) -> dict[str, float]:
    """What was logged last, under each name."""
    return {name: value.item() for name, value in trainer.callback_metrics.items()}
