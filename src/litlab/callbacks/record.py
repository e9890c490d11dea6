"""Keeps `run.json` up to date."""

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab import schema
from litlab.callbacks.throughput import Throughput
from litlab.errors import UserError
from litlab.runs.run import Run


class RecordRun(Callback):
    """Writes the metrics, the best ones and the speed into the run's record after each epoch."""

    def __init__(self, run: Run, monitor: schema.Checkpoint, throughput: Throughput) -> None:
        self.run = run
        self.monitor = monitor
        self.throughput = throughput

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say before the first epoch, not after it, that the monitored metric does not exist."""
        self._require_monitor(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the same where there is no validation at all."""
        if not any(trainer.num_val_batches):
            self._require_monitor(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics if they are the best so far."""
        name, metrics = self.monitor.monitor, self.run.record.metrics
        if name is None or trainer.sanity_checking:
            return
        self._require_monitor(trainer)
        value = trainer.callback_metrics[name].item()
        previous = metrics.best.get(name)
        if previous is None or (value > previous if self.monitor.mode == "max" else value < previous):
            metrics.best = _numbers(trainer, "val/")
            metrics.best_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known now."""
        self.run.record.metrics.last = _numbers(trainer)
        self.run.record.images_per_second = self.throughput.images_per_second
        self.run.save()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the test's metrics."""
        self.run.record.metrics.test = _numbers(trainer, "test/")
        self.run.save()

    def _require_monitor(self, trainer: Trainer) -> None:
        name = self.monitor.monitor
        if name is not None and name not in trainer.callback_metrics:
            logged = ", ".join(trainer.callback_metrics)
            hint = f"validation logs {logged}" if logged else "there is no validation data; set checkpoint.monitor=null"
            raise UserError(f"checkpoint.monitor={name}: no such metric; {hint}")


def _numbers(trainer: Trainer, prefix: str = "") -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
