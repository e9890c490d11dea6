"""Several steps for one turn of Lightning's training loop: Keras's `steps_per_execution`.

Around each step Lightning calls every hook of every callback, logger and progress bar. Here it does so once for several
steps, but counts each of them, so that all that is due after a certain step still comes after that step.

Lightning does not promise to keep the loop as it is; tests/litlab/engine compares this one with it.
"""

import logging
import math
from collections import OrderedDict
from contextlib import nullcontext, suppress
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from litlab.data.order import Resumable
from litlab.distributed.group import all_gather, current_rank, share_signals
from litlab.distributed.signals import stop
from litlab.engine.epochs import Checkpoints, EpochsLoop
from litlab.engine.graphs.optimization import GraphedOptimization
from litlab.engine.graphs.watch import RESULTS, noting_reads
from litlab.engine.hooks import foreign_callbacks, hooks_of_each_step
from litlab.engine.metrics import StepMetrics
from litlab.engine.optimization import LoggedOptimization, simplify_optimizers
from litlab.engine.random_state import random_state, set_random_state

log = logging.getLogger(__name__)


def execute_steps(
    trainer: Trainer, steps_per_execution: int, metrics: StepMetrics, checkpoints: Checkpoints | None = None
) -> None:
    """Make `trainer` execute that many steps at a time and log them through `metrics`, one of its callbacks.

    The lab's own callbacks are then called for the last batch of an execution. If another callback or the module has a
    hook for each batch or step, the executions are one step long, and the log says so. With 1, the loop is Lightning's
    own; with more, a step is captured as a CUDA graph where that is possible. From what `checkpoints`, another of its
    callbacks, has saved, the training goes on exactly.
    """
    loop = EpochsLoop(trainer, trainer.min_epochs, trainer.max_epochs)
    loop.epoch_loop = ExecutionLoop(trainer, steps_per_execution, metrics, checkpoints)
    trainer.fit_loop = loop


class ExecutionLoop(_TrainingEpochLoop):
    """Lightning's loop over an epoch, several steps a turn.

    Attributes:
        examples: how many examples were trained on, by all processes together.
        batch_size: how many of them the newest batch has, and `share` how many of these are this process's.
        weight: what its loss is multiplied by so that the mean over the processes is that over the examples.
        resumes_after_step: whether this training goes on after a step, with all that follows it still to be done.
    """

    def __init__(
        self, trainer: Trainer, steps_per_execution: int, metrics: StepMetrics, checkpoints: Checkpoints | None
    ) -> None:
        super().__init__(trainer, trainer.min_steps, trainer.max_steps)
        self.steps_per_execution = self._steps_now = steps_per_execution
        self._accumulated_as_configured = trainer.accumulate_grad_batches
        self._obstacles_told: set[str] = set()
        self._is_watched, self._reads = False, list[str]()
        optimization = LoggedOptimization if steps_per_execution == 1 else GraphedOptimization
        self.automatic_optimization: LoggedOptimization = optimization(trainer, metrics)
        self.checkpoints = checkpoints
        self.examples, self.batch_size, self.share, self.weight = 0, 1, 1, 1.0
        self.resumes_after_step = False
        self._is_after_step = self._validates = False
        self._random: dict[str, Any] = {}

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's state, and what an exact continuation takes besides."""
        own = {"after_step": self._is_after_step, "validates": self._validates}
        exact = {"examples": self.examples, "random": all_gather(random_state())}
        return {**super().on_save_checkpoint(), **own, **exact}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Restore Lightning's state and what an exact continuation takes besides."""
        super().on_load_checkpoint(state_dict)
        self.resumes_after_step = state_dict["after_step"]
        self._validates = bool(state_dict.get("validates"))  # an earlier version saved no such value
        self.examples, states = state_dict["examples"], state_dict["random"]
        # A process that there was not then draws on from its own seed.
        self._random = states[current_rank().rank] if current_rank().rank < len(states) else random_state()
        set_random_state(self._random)  # now, to see that it can be done; and again when the training goes on

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Lightning's, and see what is possible with this module and this data."""
        # A module that asks how many steps there will be, for its schedule, makes Lightning forget to do this.
        self.trainer.fit_loop._load_combined_loader_states()
        super().on_run_start(data_fetcher)
        simplify_optimizers(self.trainer)
        self._choose_steps(data_fetcher)
        module, source = self.trainer.lightning_module, self.trainer._data_connector._datahook_selector
        self._takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self._touch = source.get_instance("on_after_batch_transfer").on_after_batch_transfer
        before = ("on_before_batch_transfer", "transfer_batch_to_device")
        self._moves = any(is_overridden(hook, source.get_instance(hook)) for hook in before)

    @property
    def done(self) -> bool:
        """Whether to leave the epoch, such as when a callback has asked to stop."""
        return not self.resumes_after_step and super().done

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One execution: all steps but its last without hooks."""
        if self.resumes_after_step:  # that step is done
            self.val_loop.restarting = False
            set_random_state(self._random)
            return
        if self.trainer.accumulate_grad_batches != self._accumulated:  # since the last execution
            self._choose_steps(data_fetcher)
        self.automatic_optimization.begin_execution()
        if not self.restarting:  # otherwise Lightning first sorts out where it was
            for _ in range(self._steps_until_due() - 1):
                self._step(data_fetcher)
                share_signals()
                if self._reads:  # the next step is to find what this one has logged
                    self._choose_steps(data_fetcher)
                    self._end_execution()
                    return
                if stop.received or self.trainer.should_stop or (self._timers and self._is_time_over()):
                    break
            if self.trainer.should_stop and self.trainer.fit_loop._can_stop_early:  # training_step has set it
                self._end_execution()
                return
        super().advance(data_fetcher)
        share_signals()

    def _end_execution(self) -> None:
        """Let the last step that was done be the execution's last."""
        call._call_callback_hooks(self.trainer, "on_train_batch_end", {}, None, self.batch_idx)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Save the state of the training if that is due, and do what else follows a step."""
        if self.resumes_after_step:
            self.resumes_after_step = False
        elif self.checkpoints and not self._should_accumulate():
            self._is_after_step, self._validates = True, self._is_validation_due(data_fetcher)
            ends = self._is_training_done or self.trainer.should_stop
            self.checkpoints.after_step(self.trainer, ends or self._validates)
            self._is_after_step = False
        elif stop.received:  # Lightning would stop here, where gradients are not all there
            self.trainer._signal_connector.received_sigterm = False
        super().on_advance_end(data_fetcher)
        self._validates = False

    def teardown(self) -> None:
        """Lightning's, and give back what the steps have taken."""
        self.automatic_optimization.close()
        super().teardown()

    def validate(self) -> None:
        """Validate now, besides when it is due."""
        self.trainer.validating = True
        self.val_loop.run()
        self.trainer.training = True

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Lightning's, and after the last step, wherever the steps or epochs that were asked for end."""
        return self._is_validation_due(data_fetcher) or self._ends_training()

    def _is_validation_due(self, data_fetcher: _DataFetcher) -> bool:
        """Lightning's rule; after resuming, a step has its validation if it had it before, whatever a timer says."""
        return self._validates or super()._should_check_val_fx(data_fetcher)

    def _ends_training(self) -> bool:
        return bool(self.checkpoints and self.trainer.enable_validation and self.trainer.fit_loop.ends_with_this_step())

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's way of telling the other processes of a signal, which waits for them; see `share_signals`."""

    def _choose_steps(self, data_fetcher: _DataFetcher) -> None:
        """Find out how many steps an execution can have, and whether they must be left to Lightning."""
        self._accumulated = self.trainer.accumulate_grad_batches
        callbacks = self.trainer.callbacks
        self._timers = [timer for timer in callbacks if isinstance(timer, Timer) and timer._interval == "step"]
        obstacle = self._obstacle(data_fetcher)
        self._steps_now = 1 if obstacle else self.steps_per_execution
        if obstacle and self.steps_per_execution > 1 and obstacle not in self._obstacles_told:
            self._obstacles_told.add(obstacle)
            log.info("trainer.steps_per_execution is 1 here: %s", obstacle)
        self.automatic_optimization.prepare(obstacle)

    def _is_time_over(self) -> bool:
        remaining = [timer.time_remaining() for timer in self._timers]
        return any(seconds is not None and seconds <= 0 for seconds in remaining)

    def _obstacle(self, data_fetcher: _DataFetcher) -> str | None:
        module = self.trainer.lightning_module
        if not module.automatic_optimization:
            return "the module optimizes by hand"
        if data_fetcher.length is None:
            return "the data does not say how many batches it has"
        if isinstance(data_fetcher, _DataLoaderIterDataFetcher):
            return "training_step takes the batches itself"
        if self.trainer.accumulate_grad_batches != self._accumulated_as_configured:
            by = " or ".join(foreign_callbacks(self.trainer)) or "the module"
            return f"trainer.accumulate_grad_batches was changed on the way, by {by}"
        if hooks := hooks_of_each_step(self.trainer):
            return hooks
        if self._reads:
            return f"training_step reads {self._reads[0]}"
        if self.trainer._val_check_time_interval is not None:
            return "trainer.val_check_interval goes by time"
        if any(config.reduce_on_plateau and config.interval == "step" for config in self.trainer.lr_scheduler_configs):
            return "the schedule looks at a metric at each step"
        return None

    def _steps_until_due(self) -> int:
        """How many steps make the next execution: up to where Lightning has something to do between two of them."""
        trainer, done, steps = self.trainer, self.batch_idx + 1, self.global_step
        until = [self._steps_now, trainer.num_training_batches - done]
        if self.max_steps != -1:
            until.append(self.max_steps - steps)
        if trainer.val_check_batch not in (None, math.inf):
            since = self.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else done
            until.append(trainer.val_check_batch - since % trainer.val_check_batch)
        if self.checkpoints:
            until.append(self.checkpoints.steps_until_due(steps))
        intervals = [keep._every_n_train_steps for keep in trainer.checkpoint_callbacks if _has_interval(keep)]
        until += [interval - steps % interval for interval in intervals]
        return int(min(until))

    def _step(self, data_fetcher: _DataFetcher) -> None:
        """What Lightning's `advance` does, without callbacks' hooks and without the loggers."""
        trainer = self.trainer
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        batch = self._to_device(batch)
        self.batch_progress.increment_ready()
        self.batch_progress.increment_started()
        kwargs = self._build_kwargs(OrderedDict(), batch, batch_idx)
        with nullcontext() if self._is_watched else noting_reads(trainer, RESULTS, self._reads.append):
            self.automatic_optimization.run(trainer.optimizers[0], batch_idx, kwargs)
        self._is_watched = True
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        self.batch_progress.increment_completed()
        if not self._should_accumulate():
            self._batches_that_stepped += 1

    def _to_device(self, batch: Any) -> Any:
        """What Lightning does with a batch; one that is there already only gets the data module's last touch."""
        trainer = self.trainer
        if not self._moves and _is_at(batch, trainer.strategy.root_device):
            return self._touch(batch, 0)
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)

    def _build_kwargs(self, kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        loader, processes = self.trainer.train_dataloader, current_rank().world_size
        if isinstance(loader, Resumable):
            self.share, self.batch_size = loader.counts
            self.weight = self.share * processes / self.batch_size
        else:
            with suppress(MisconfigurationException):  # in a batch of an unknown kind nothing can be counted
                self.share = extract_batch_size(batch)
            self.batch_size = self.share * processes
        self.examples += self.batch_size  # every batch passes here
        kwargs["batch"] = batch
        if self._takes_index:
            kwargs["batch_idx"] = batch_idx
        return kwargs


def _is_at(batch: Any, device: torch.device) -> bool:
    return isinstance(batch, tuple) and all(isinstance(part, Tensor) and part.device == device for part in batch)


def _has_interval(checkpoint: Any) -> bool:
    return isinstance(checkpoint, ModelCheckpoint) and checkpoint._every_n_train_steps > 0
