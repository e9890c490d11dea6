"""How far the training has come, on the terminal."""

import logging
import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from litlab.callbacks.throughput import Throughput
from litlab.distributed import debugger

log = logging.getLogger(__name__)


def progress() -> Callback:
    """A progress bar on a terminal, elsewhere a line an epoch."""
    return ProgressBar(leave=True) if sys.stdout.isatty() else EpochLines()


class ProgressBar(RichProgressBar):
    """Lightning's bar, with the examples per second of the present epoch beside loss and accuracy."""

    _paused = False

    def pause(self) -> None:
        """Leave the terminal to a debugger, until it lets the training go on."""
        if self.progress is not None:
            self.progress.stop()
            self._paused = True

    def refresh(self, hard: bool = False) -> None:
        """Draw the bar, unless a debugger has the terminal."""
        if self.progress is not None and self._paused and not debugger.at_prompt():
            self._paused = False
            self.progress.start()
        if not self._paused:
            super().refresh(hard)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown = super().get_metrics(trainer, pl_module)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput) and (rate := callback.rate(trainer)):
                shown["examples/s"] = f"{rate:,.0f}"
        return shown


class EpochLines(Callback):
    """One line an epoch, where there is no terminal to draw a progress bar on."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics."""
        metrics = ", ".join(f"{name} {value.item():.5g}" for name, value in sorted(trainer.callback_metrics.items()))
        log.info("epoch %d: %s", trainer.current_epoch, metrics)
