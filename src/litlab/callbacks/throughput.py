"""How fast the training goes."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs `examples_per_second` of each epoch and keeps that of the whole training; validation is not counted in.

    The examples are counted by litlab.engine's loop, since hooks do not see every batch.
    Lightning's ThroughputMonitor reports rates over a window of steps, and needs a function from the config to count.
    """

    def __init__(self) -> None:
        self.examples, self.seconds = 0, 0.0
        self._examples_before, self._epoch_seconds = 0, 0.0
        self._since: float | None = None

    @property
    def examples_per_second(self) -> float | None:
        """Mean over the finished epochs; None before the first."""
        return self.examples / self.seconds if self.seconds else None

    def rate(self, trainer: Trainer) -> float | None:
        """Examples per second of the present epoch so far; None before there are any."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        examples, seconds = trainer.fit_loop.epoch_loop.examples - self._examples_before, self._epoch_seconds + running
        return examples / seconds if examples and seconds else None

    def state_dict(self) -> dict[str, Any]:
        """Examples and seconds of the finished epochs, and where this one stands, by the names in older checkpoints."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return {
            "images": self.examples,
            "seconds": self.seconds,
            "images_before": self._examples_before,
            "epoch_seconds": self._epoch_seconds + running,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts; the checkpoint may be anybody's."""
        self.examples, self.seconds = int(state_dict["images"]), float(state_dict["seconds"])
        self._examples_before = int(state_dict["images_before"])
        self._epoch_seconds = float(state_dict["epoch_seconds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, if the training goes on in the middle of an epoch."""
        if self._epoch_seconds:
            self._go(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._examples_before, self._epoch_seconds = trainer.fit_loop.epoch_loop.examples, 0.0
        self._go(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, unless this is the check before training."""
        self._stop(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        if not trainer.sanity_checking:
            self._go(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's rate."""
        self._stop(pl_module)
        examples = trainer.fit_loop.epoch_loop.examples - self._examples_before
        self.examples += examples
        self.seconds += self._epoch_seconds
        pl_module.log("examples_per_second", examples / self._epoch_seconds, sync_dist=True)

    def _go(self, module: LightningModule) -> None:
        self._since = self._now(module)

    def _stop(self, module: LightningModule) -> None:
        if self._since is not None:
            self._epoch_seconds += self._now(module) - self._since
            self._since = None

    @staticmethod
    def _now(module: LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)  # the device may still be at work on steps already counted
        return time.perf_counter()
