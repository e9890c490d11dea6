"""Keeps the best weights, and all that it takes to go on with the training."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from litlab.callbacks import averaging
from litlab.config import schema
from litlab.distributed.group import broadcast_from_rank_zero, current_rank, is_rank_zero, share_signals
from litlab.distributed.signals import stop
from litlab.engine.metrics import StepMetrics
from litlab.engine.restored import require_fitting_loops, require_fitting_optimizers, require_fitting_state
from litlab.engine.schedule import rebuild_schedules, steps_of
from litlab.errors import TrainingError, UserError
from litlab.runs.checkpoint import read
from litlab.runs.record import CheckpointName, Metrics, Validation, current_name
from litlab.runs.run import Run
from litlab.runs.writing import AtomicCheckpointIO

log = logging.getLogger(__name__)

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Where PyTorch's optimizers and schedules keep learning rates."""


@runtime_checkable
class Rewindable(Protocol):
    """A logger whose curves can be cut back to where they were when a checkpoint was written."""

    @property
    def log_dir(self) -> str:
        """Its folder."""

    def position(self) -> dict[str, int]:
        """How much there is, which is on the disk by now."""

    def rewind(self, position: Mapping[str, int]) -> int | None:
        """Take back what was written after this position; before the first use.

        Return the last step that is left if there is less than that, None otherwise.
        """


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, from which the training goes on exactly, and `best.ckpt`, the weights with the best metric.

    The state is saved between two steps: when it is due, before each validation, at the end of each epoch and when a
    signal asks to stop. What follows a step, such as its validation, is done again after resuming. Lightning's
    ModelCheckpoint saves in the middle of that, keeps absolute paths, and deletes what they name.

    `best.ckpt` holds the weights that were validated, also where a callback exchanges them for the validation. If a
    callback replaces the weights at the end of the training, as StochasticWeightAveraging does, the new ones are
    validated and become those of `best.ckpt` and `last.ckpt`; `last.ckpt` keeps the trained ones, too, to go on with.

    Args:
        run: the run whose folder gets the files.
        config: the run's; what is kept, and how often, is among it.
        metrics: what the steps have logged, which is written before the state is saved.

    Attributes:
        begun: whether the training has begun, all that a checkpoint held being in its place.
        saves: whether there are checkpoints at all, unless trainer.enable_checkpointing=false.
    """

    def __init__(self, run: Run, config: schema.Train, metrics: StepMetrics) -> None:
        self.run = run
        self.settings = config.checkpoint
        self.optimizer = config.optimizer or {}
        self.schedule = {"": config.scheduler, **config.trainer.model_dump(include={"max_epochs", "max_steps"})}
        self.metrics = metrics
        self.monitor = run.record.metrics.monitor = self.settings.monitor
        self.saves = config.trainer.others.get("enable_checkpointing") is not False
        self.begun = False
        self.best: float | None = None
        self.saved_step, self._saved_at = 0, time.monotonic()
        self._positions: dict[str, dict[str, int]] = {}
        self._newest: dict[str, float] = {}
        self._validated: averaging.Weights | None = None  # those of the module, if None
        self._validated_step: int | None = None
        self._has_ended = self._has_replaced = self._exchanges = False
        self._saving: CheckpointName = "last"
        self._steps_of_schedules: list[int] = []
        self._saved: dict[str, Any] | None = None

    @staticmethod
    def of(trainer: Trainer) -> "Checkpoints":
        """Return the one among the trainer's callbacks."""
        return next(one for one in trainer.callbacks if isinstance(one, Checkpoints))  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """What the record says of the metrics, where the loggers are, and what the optimizer was made from."""
        return {
            "best": self.best,
            "metrics": self.run.record.metrics.model_dump(),
            "newest": self._newest,
            "loggers": self._positions,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the metrics and the best value; the loggers were rewound before they were opened."""
        self.best = state_dict["best"]
        self._newest = {current_name(name): value for name, value in state_dict["newest"].items()}
        self.run.record.metrics = Metrics.model_validate(state_dict["metrics"])
        # The last validation may have come after this state was saved, and then it says more of the best weights.
        with suppress(UserError, LookupError, TypeError, ValueError):
            state = read(self._file("best"))["callbacks"][self.state_key]
            metrics = Metrics.model_validate(state["metrics"])
            if metrics.best[self.run.record.metrics.monitor or ""] == state["best"]:
                self.best, self.run.record.metrics.best = state["best"], metrics.best
                self.run.record.metrics.best_epoch = metrics.best_epoch

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let changed settings of the optimizer and its schedule count, which it would take from the checkpoint."""
        require_fitting_loops(trainer, checkpoint)
        self._saved = checkpoint
        for callback in trainer.early_stopping_callbacks:  # which takes its patience from the checkpoint, too
            checkpoint["callbacks"].get(callback.state_key, {})["patience"] = callback.patience
        before = checkpoint["callbacks"][self.state_key]
        changes = {key: new for key, new in self.optimizer.items() if new != before["optimizer"].get(key)}
        factor = changes.pop("lr", 1) / before["optimizer"].get("lr", 1) if "lr" in changes else 1
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                group.update({key: value for key, value in changes.items() if key in group})
                # A schedule has left its own marks there, and it knows where it is by them.
                group.update({key: group[key] * factor for key in RATES if key in group})
        ours = self.schedule[""] or before["schedule"][""]  # made from the config
        if ours and self.schedule != before["schedule"]:
            self._steps_of_schedules = steps_of(checkpoint["lr_schedulers"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the checkpoint has of the optimizers and schedules, which are made by now."""
        if self._saved:
            require_fitting_optimizers(trainer, self._saved)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of the step."""
        if self._saved and self._saved["callbacks"][self.state_key]["optimizer"] == self.optimizer:
            for optimizer in trainer.optimizers:
                require_fitting_state(optimizer, trainer.precision == "16-mixed" or self.metrics.skipped > 0)
        self._saved = None
        if self._steps_of_schedules:
            rebuild_schedules(trainer, self._steps_of_schedules)
        averaging.resume_averaging(trainer)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._newest.items()})
        self.saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self.begun = stop.deferred = True
        stop.shared = current_rank().world_size > 1

    def steps_until_due(self, step: int) -> float:
        """Steps until the state is to be saved; infinite if that does not go by steps."""
        interval = self.settings.every_n_steps
        return interval - step % interval if interval else math.inf

    def after_step(self, trainer: Trainer, anyway: bool) -> None:
        """Save the state if it is time, or `anyway`; stop if that was asked for.

        Raises:
            Interrupted: a signal asked for it.
            TrainingError: the loss or a weight is not a number; the state is not saved then.
        """
        # While StochasticWeightAveraging renews batch statistics, no step is done; that is repeated as a whole.
        is_step = not trainer.fit_loop._skip_backward
        if is_step and (anyway or stop.received or broadcast_from_rank_zero(lambda: self._is_due(trainer.global_step))):
            self._save_state(trainer)
        stop.check()

    def before_end(self, trainer: Trainer) -> None:
        """Validate the last weights, unless they were, as when an epoch without validation stopped the training."""
        self._has_ended = True
        if self._validated_step != trainer.global_step:
            self._validate(trainer)
        self._exchanges = self._validated is not None and not averaging.has_parameters(
            trainer.lightning_module, self._validated
        )

    def after_end(self, trainer: Trainer) -> None:
        """Validate and keep the weights that the training results in, if a callback has replaced the trained ones."""
        module = trainer.lightning_module
        saved, averages = broadcast_from_rank_zero(lambda: self._compare(module))
        if not saved:
            names = ", ".join(averaging.replacing_classes(trainer))
            log.info("%s replaced the trained weights: the new ones are validated, kept and tested", names)
            self._has_replaced = not (self._exchanges or averages)
            weights = averaging.copied(module)
            self._validate(trainer)
            if is_rank_zero():
                AtomicCheckpointIO(self.run.folder).replace_weights(self._file("last"), weights)
        if self.monitor is not None and (self.best is None or math.isnan(self.best)):
            log.warning("checkpoint.monitor=%s: was never a number; the last weights are the result", self.monitor)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the weights that are validated; stop, if the state before is saved: it will be done again."""
        if batch_idx == dataloader_idx == 0:
            self._validated = averaging.copied(pl_module) if averaging.exchanges_weights(trainer) else None
        if self.saved_step == trainer.global_step:
            if batch_idx + 1 < trainer.num_val_batches[dataloader_idx]:  # not every process has the last one
                share_signals()
            stop.check()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights, and the metrics, if they are the best so far."""
        if trainer.sanity_checking:
            return
        self._validated_step = trainer.global_step
        if self.monitor is None:
            return
        metrics, epoch = self.run.record.metrics, trainer.current_epoch - self._has_ended
        stage = self.monitor.partition("/")[0] if "/" in self.monitor else ""
        newest = broadcast_from_rank_zero(lambda: numbers(trainer))  # all must find the same of them the best
        measured = {name: value for name, value in newest.items() if name.startswith(stage)}
        metrics.validations.append(Validation(epoch=epoch, step=trainer.global_step, metrics=measured))
        if self._has_replaced or self._is_better(measured[self.monitor]):
            self.best, metrics.best, metrics.best_epoch = measured[self.monitor], measured, epoch
            self._save(trainer, "best")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save as the best weights those that were validated."""
        if self._saving == "best" and self._validated is not None:
            checkpoint["state_dict"] = self._validated

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal stops at once: the state is saved."""
        stop.at_once()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """From here on a signal stops at once: this exception ends the training anyway."""
        stop.deferred = stop.shared = False

    def _is_due(self, step: int) -> bool:
        interval, minutes = self.settings.every_n_steps, self.settings.every_minutes
        if interval and step // interval > self.saved_step // interval:
            return True
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _is_better(self, value: float) -> bool:
        if self.best is None or math.isnan(self.best):
            return not math.isnan(value)
        return value > self.best if self.settings.mode == "max" else value < self.best

    def _validate(self, trainer: Trainer) -> None:
        if trainer.enable_validation:
            trainer.fit_loop.epoch_loop.validate()
            self.run.record.metrics.last = numbers(trainer)

    def _compare(self, module: LightningModule) -> tuple[bool, bool]:
        """Whether `last.ckpt` has the module's weights, and whether it keeps an average beside the trained ones."""
        if not self._file("last").exists():  # whatever has ended the first epoch has left out its end
            return True, False
        saved = read(self._file("last"))
        return averaging.has_parameters(module, saved["state_dict"]), "current_model_state" in saved

    def _file(self, name: CheckpointName) -> Path:
        return self.run.folder / "checkpoints" / f"{name}.ckpt"

    def _save_state(self, trainer: Trainer) -> None:
        self.metrics.write(trainer)
        _require_numbers(trainer)
        self._save(trainer, "last")
        self.saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _save(self, trainer: Trainer, name: CheckpointName) -> None:
        self._saving = name
        self._newest = numbers(trainer)
        rewindable = [logger for logger in trainer.loggers if isinstance(logger, Rewindable)] if is_rank_zero() else []
        self._positions = {place_of(logger, self.run.folder): logger.position() for logger in rewindable}
        if self.saves:
            trainer.save_checkpoint(self._file(name), weights_only=False)


def place_of(logger: Rewindable, folder: Path) -> str:
    """What tells a run's loggers apart, wherever its folder is: what writes, and where."""
    return f"{type(logger).__name__} {Path(logger.log_dir).relative_to(folder)}"


def _require_numbers(trainer: Trainer) -> None:
    """Make sure that the weights, which may have become infinite in the last step, are worth keeping.

    Raises:
        TrainingError: a weight is infinite or not a number.
    """
    for name, weight in trainer.lightning_module.named_parameters():
        if not weight.isfinite().all():
            raise TrainingError(f"{name} is no longer finite after {trainer.global_step} steps")


def numbers(trainer: Trainer) -> dict[str, float]:
    """What was logged last, under each name."""
    return {name: value.item() for name, value in trainer.callback_metrics.items()}
