"""Why a training has come to its end."""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class StoppableTrainer(Trainer):
    """Lightning's Trainer, which notes what has set `should_stop`: a callback, the module or a function (by name)."""

    stopped_by: object | None = None

    @property
    def should_stop(self) -> bool:
        """Whether the training is to end."""
        return self._should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        if not value:
            self.stopped_by = None
        elif self.stopped_by is None:
            self.stopped_by = _owner(sys._getframe(1))
        self._should_stop = value


def stop_reason(trainer: Trainer, keys: Mapping[str, Callback] | None = None) -> str:
    """Return what ended the training, in words that name the setting or the callback.

    Args:
        trainer: the one whose training has ended.
        keys: its callbacks by their config keys, as far as these are known.
    """
    if (limit := _reached_limit(trainer)) is not None:
        return limit
    by = getattr(trainer, "stopped_by", None)
    key = next((key for key, callback in (keys or {}).items() if callback is by), None)
    if isinstance(by, EarlyStopping):
        return _early_stopping_reason(by)
    if isinstance(by, Timer):
        return f"the time limit {f'{key} ' if key else ''}is reached"
    if by is None:
        return "there is no training data"
    name = by if isinstance(by, str) else type(by).__name__
    return f"{name} set trainer.should_stop"


def early_stop(trainer: Trainer, keys: Mapping[str, Callback]) -> str | None:
    """Return when and why the training stopped early; None if it reached the epochs or steps that were asked for."""
    if _reached_limit(trainer) is not None or not trainer.should_stop:
        return None
    is_whole = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
    when = f"epoch {trainer.current_epoch - 1}" if is_whole else f"step {trainer.global_step}"
    return f"stopped early after {when}: {stop_reason(trainer, keys)}"


def _reached_limit(trainer: Trainer) -> str | None:
    loop = trainer.fit_loop
    if loop.max_steps != -1 and trainer.global_step >= loop.max_steps:
        return f"trainer.max_steps={loop.max_steps} is reached"
    was_cut_short = trainer.should_stop and not loop.epoch_loop._num_ready_batches_reached()
    if loop.max_epochs not in (-1, None) and trainer.current_epoch >= loop.max_epochs and not was_cut_short:
        return f"trainer.max_epochs={loop.max_epochs} is reached"
    return None


def _owner(frame: FrameType) -> Any:
    """Return the object whose method runs in the frame; of a plain function, its name."""
    return frame.f_locals.get("self", frame.f_code.co_qualname)


def _early_stopping_reason(callback: EarlyStopping) -> str:
    metric = callback.monitor
    match callback.stopping_reason:
        case EarlyStoppingReason.PATIENCE_EXHAUSTED:
            unit, count = "epoch" if callback._check_on_train_epoch_end else "validation", callback.wait_count
            return f"{metric} did not improve for {count} {unit}{'' if count == 1 else 's'}"
        case EarlyStoppingReason.STOPPING_THRESHOLD:
            return f"{metric} is better than stopping_threshold={callback.stopping_threshold:g}"
        case EarlyStoppingReason.DIVERGENCE_THRESHOLD:
            return f"{metric} is worse than divergence_threshold={callback.divergence_threshold:g}"
        case EarlyStoppingReason.NON_FINITE_METRIC:
            return f"{metric} is not finite"
        case _:  # a subclass with a reason of its own
            return f"{type(callback).__name__} set trainer.should_stop"
