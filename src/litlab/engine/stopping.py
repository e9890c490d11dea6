"""Why a training has come to its end."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer


def stop_reason(trainer: Trainer) -> str:
    """Return what ended the training, in words that name the setting or the callback."""
    loop = trainer.fit_loop
    if loop.max_steps != -1 and trainer.global_step >= loop.max_steps:
        return f"trainer.max_steps={loop.max_steps} is reached"
    if loop.max_epochs not in (-1, None) and trainer.current_epoch >= loop.max_epochs:
        return f"trainer.max_epochs={loop.max_epochs} is reached"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return f"the time limit is reached, {callback.time_elapsed():.1f} s were trained"
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message and trainer.should_stop:
            reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"EarlyStopping stopped the training: {reason.rstrip('.')}"
    return "a callback stopped the training" if trainer.should_stop else "there is no training data"
