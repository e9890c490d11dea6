"""The loop over the epochs, and who saves the state of the training around it."""

import logging
from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.utilities import CombinedLoader

from litlab.engine.replay import make_replaying
from litlab.engine.stopping import stop_reason

log = logging.getLogger(__name__)


class Checkpoints(Protocol):
    """Who saves the state of the training; see litlab.callbacks.checkpoints."""

    def steps_until_due(self, step: int) -> float:
        """Steps until the state is to be saved; infinite if that does not go by steps."""

    def after_step(self, trainer: Trainer, anyway: bool) -> None:
        """Called between two steps; saves the state if it is time, or `anyway`."""

    def before_end(self, trainer: Trainer) -> None:
        """Called when the last epoch is over, before the hooks `on_train_end`."""

    def after_end(self, trainer: Trainer) -> None:
        """Called after the hooks `on_train_end`, which may have replaced the weights."""


class EpochsLoop(_FitLoop):
    """Lightning's loop over the epochs; what follows the step that a checkpoint was saved after is never left out."""

    @property
    def _combined_loader(self) -> CombinedLoader | None:
        return self._loaders

    @_combined_loader.setter
    def _combined_loader(self, loaders: CombinedLoader | None) -> None:
        """Take the loaders, before Lightning asks them for batches or gives them their state."""
        for loader in () if loaders is None else loaders.flattened:
            make_replaying(loader, lambda: self.trainer.current_epoch)
        self._loaders = loaders

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's state; batches that were fetched ahead are still to be trained on."""
        state = super().on_save_checkpoint()
        ahead = len(getattr(self._data_fetcher, "batches", ()))
        for loader in state.get("combined_loader", ()) if ahead else ():
            if isinstance(loader, dict) and "batches" in loader:
                loader["batches"] -= ahead
        return state

    def run(self) -> None:
        """Lightning's, and say so if nothing was left to train, such as after a limit or early stopping."""
        first = self.epoch_loop.global_step
        super().run()
        if self.epoch_loop.global_step == first:
            log.info("no step was trained: %s", stop_reason(self.trainer))

    @property
    def done(self) -> bool:
        """Whether to leave the loop, such as when all steps are done."""
        return not self.epoch_loop.resumes_after_step and super().done

    def on_advance_end(self) -> None:
        """Lightning's, which would leave schedules that look at a metric as they are after resuming."""
        self._restarting = False  # not by the property, which takes other loops along
        super().on_advance_end()

    def on_run_start(self) -> None:
        """Lightning's, which would not look at the validation data yet if the first epoch has no validation."""
        trainer = self.trainer
        if trainer.enable_validation and not any(trainer.num_val_batches):
            trainer.validating = True
            self.epoch_loop.val_loop.setup_data()
            trainer.training = True
        super().on_run_start()

    def on_run_end(self) -> None:
        """Lightning's, and let the checkpoints say which weights the training results in."""
        checkpoints = self.epoch_loop.checkpoints
        if checkpoints:
            checkpoints.before_end(self.trainer)
        super().on_run_end()
        if checkpoints:
            checkpoints.after_end(self.trainer)

    def ends_with_this_step(self) -> bool:
        """Whether no step follows the one that was just done."""
        if self.trainer.should_stop and self._can_stop_early:
            return True
        if self.max_steps != -1 and self.epoch_loop.global_step >= self.max_steps:
            return True
        is_last_epoch = self.max_epochs not in (None, -1) and self.trainer.current_epoch + 1 >= self.max_epochs
        return is_last_epoch and self.epoch_loop._num_ready_batches_reached()
