"""Lightning's optimization of one batch, with what the module logs going to StepMetrics."""

from collections import OrderedDict
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.utilities.data import extract_batch_size
from torch.optim import Optimizer

from litlab.engine.metrics import Gathered, StepMetrics

Batch = OrderedDict[str, Any]
"""The arguments of `training_step`."""


class RecordedOptimization(_AutomaticOptimization):
    """Forward, backward and optimizer step of a batch, one kernel after the other."""

    def __init__(self, trainer: Trainer, metrics: StepMetrics) -> None:
        super().__init__(trainer)
        self.metrics = metrics

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> dict[str, Any]:
        """Train on the batch; its outputs."""
        learning_rate, batch_size = optimizer.param_groups[0]["lr"], extract_batch_size(kwargs["batch"])
        outputs, gathered = self.execute(optimizer, batch_idx, kwargs)
        if not self.trainer.fit_loop._should_accumulate():
            step = self.trainer.fit_loop.epoch_loop._batches_that_stepped
            self.metrics.add(step, batch_size, learning_rate, gathered)
        return outputs

    def execute(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], Gathered]:
        """Lightning's own `run`; its outputs, and what the module has logged."""
        with self.metrics.recording(self.trainer.lightning_module):
            outputs = super().run(optimizer, batch_idx, kwargs)
        return outputs, self.metrics.gather()
