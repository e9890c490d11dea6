"""Keeps `run.json` up to date."""

from lightning.pytorch import Callback, LightningModule, Trainer

from litlab import schema
from litlab.callbacks.throughput import Throughput
from litlab.errors import UserError
from litlab.runs.run import Run


class RecordRun(Callback):
    """Writes the metrics, the best ones and the speed into the run's record after each epoch."""

    def __init__(self, run: Run, checkpoint: schema.Checkpoint, throughput: Throughput) -> None:
        self.run = run
        self.monitor = checkpoint.monitor
        self.mode = checkpoint.mode
        self.throughput = throughput
        run.record.metrics.monitor = checkpoint.monitor

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say before the first epoch, not after it, that the monitored metric does not exist."""
        self._require_monitor(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the same where there is no validation at all."""
        if not any(trainer.num_val_batches):
            self._require_monitor(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the validation's metrics if they are the best so far."""
        if self.monitor is None or trainer.sanity_checking:
            return
        self._require_monitor(trainer)
        metrics = self.run.record.metrics
        if self._is_better(trainer.callback_metrics[self.monitor].item(), metrics.best.get(self.monitor)):
            stage = self.monitor.rpartition("/")[0]
            metrics.best = {name: value for name, value in numbers(trainer).items() if name.startswith(stage)}
            metrics.best_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known now."""
        self.run.record.metrics.last = numbers(trainer)
        self.run.record.images_per_second = self.throughput.images_per_second
        self.run.save()

    def _is_better(self, value: float, best: float | None) -> bool:
        return best is None or (value > best if self.mode == "max" else value < best)

    def _require_monitor(self, trainer: Trainer) -> None:
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            logged = ", ".join(trainer.callback_metrics)
            hint = f"validation logs {logged}" if logged else "there is no validation data; set checkpoint.monitor=null"
            raise UserError(f"checkpoint.monitor={self.monitor}: no such metric; {hint}")


def numbers(trainer: Trainer) -> dict[str, float]:
    """What was logged last, under each name."""
    return {name: value.item() for name, value in trainer.callback_metrics.items()}
