"""Several steps for one turn of Lightning's training loop: Keras's `steps_per_execution`.

Around each step Lightning calls every hook of every callback, logger and progress bar. Here it does so once for several
steps, but counts each of them, so that all that is due after a certain step still comes after that step.

Lightning does not promise to keep the loop as it is; tests/litlab/engine compares this one with it.
"""

import logging
from collections import OrderedDict
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.data import extract_batch_size

from litlab.engine.graph import GraphedOptimization
from litlab.engine.metrics import StepMetrics
from litlab.engine.optimization import RecordedOptimization

log = logging.getLogger(__name__)


def execute_steps(trainer: Trainer, steps_per_execution: int, metrics: StepMetrics) -> None:
    """Make `trainer` execute that many steps at a time and log them through `metrics`, one of its callbacks.

    The hooks of a batch, such as `on_train_batch_end`, are then called for the last batch of an execution. With 1, the
    loop is Lightning's own; with more, a step is captured as a CUDA graph where that is possible.
    """
    trainer.fit_loop.epoch_loop = ExecutionLoop(trainer, steps_per_execution, metrics)


class ExecutionLoop(_TrainingEpochLoop):
    """Lightning's loop over an epoch, several steps a turn.

    Attributes:
        examples: how many examples were trained on since this loop was made.
    """

    def __init__(self, trainer: Trainer, steps_per_execution: int, metrics: StepMetrics) -> None:
        super().__init__(trainer, trainer.min_steps, trainer.max_steps)
        self.steps_per_execution = steps_per_execution
        optimization = RecordedOptimization if steps_per_execution == 1 else GraphedOptimization
        self.automatic_optimization = optimization(trainer, metrics)
        self.examples = 0

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Lightning's, and see whether several steps at a time are possible."""
        super().on_run_start(data_fetcher)
        obstacle = self._obstacle(data_fetcher)
        if obstacle and self.steps_per_execution > 1:
            log.info("trainer.steps_per_execution is 1 here: %s", obstacle)
            self.steps_per_execution = 1

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One execution: all steps but its last without hooks."""
        if not self.restarting:  # otherwise Lightning first sorts out where it was
            for _ in range(self.steps_per_execution - 1):
                if self._next_step_is_last(data_fetcher):
                    break
                self._step(data_fetcher)
        super().advance(data_fetcher)

    def _obstacle(self, data_fetcher: _DataFetcher) -> str | None:
        if not self.trainer.lightning_module.automatic_optimization:
            return "the module optimizes by hand"
        if data_fetcher.length is None:
            return "the data does not say how many batches it has"
        return None

    def _next_step_is_last(self, data_fetcher: _DataFetcher) -> bool:
        """Whether something is due after the next step that Lightning does between executions."""
        trainer = self.trainer
        batch, step = self.batch_idx + 2, self.global_step + 1  # both counted from 1
        since = self.total_batch_idx + 2 if trainer.check_val_every_n_epoch is None else batch
        validates = trainer.val_check_batch is not None and since % trainer.val_check_batch == 0
        intervals = [keep._every_n_train_steps for keep in trainer.checkpoint_callbacks if _has_interval(keep)]
        saves = any(step % interval == 0 for interval in intervals)
        ends = step == self.max_steps or batch >= min(trainer.num_training_batches, data_fetcher.length or 0)
        return validates or saves or ends or trainer.should_stop or trainer.received_sigterm

    def _step(self, data_fetcher: _DataFetcher) -> None:
        """What Lightning's `advance` does, without callbacks' hooks and without the loggers."""
        trainer = self.trainer
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        self.batch_progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        self.batch_progress.increment_started()
        kwargs = self._build_kwargs(OrderedDict(), batch, batch_idx)
        self.automatic_optimization.run(trainer.optimizers[0], batch_idx, kwargs)
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        self.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not self._should_accumulate():
            self._batches_that_stepped += 1

    def _build_kwargs(self, kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        self.examples += extract_batch_size(batch)  # every batch passes here
        return super()._build_kwargs(kwargs, batch, batch_idx)


def _has_interval(checkpoint: Any) -> bool:
    return isinstance(checkpoint, ModelCheckpoint) and checkpoint._every_n_train_steps > 0
