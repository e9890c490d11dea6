"""Which callbacks and hooks want to be called at every step, so that several steps at a time would skip them."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

IN_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
"""Hooks that Lightning calls in the middle of a step."""

AROUND_STEP = ("on_train_batch_start", "on_train_batch_end")
"""Hooks that Lightning calls before and after a step; for several steps at a time, the lab calls them once."""

STEP_PARTS = (
    "backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
)
"""Parts of a step that a module can replace."""

EXECUTION_AWARE = (
    "litlab.",
    "lightning.pytorch.callbacks.progress.",  # a bar moves on by as many batches as were done
    "lightning.pytorch.callbacks.timer",  # the loop ends an execution when the time is over
    "lightning.pytorch.callbacks.model_checkpoint",  # the loop ends an execution where a checkpoint is due
)
"""Modules whose hooks around a step lose nothing when they are called once for several steps."""


def hooks_of_each_step(trainer: Trainer) -> str | None:
    """The callbacks, and the LightningModule, that have hooks for every batch or step; None if there are none."""
    return ", ".join(_hooks_of_each_step(trainer)) or None


def foreign_callbacks(trainer: Trainer) -> list[str]:
    """Names of the callbacks that are not the lab's own."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [
        type(callback).__name__ for callback in callbacks if not type(callback).__module__.startswith(EXECUTION_AWARE)
    ]


def _hooks_of_each_step(trainer: Trainer) -> Iterator[str]:
    module = trainer.lightning_module
    for hook in (*AROUND_STEP, *IN_STEP, *STEP_PARTS):
        if implementation(module, hook) is not getattr(LightningModule, hook):
            yield f"the module has {hook}"
            break
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if overridden := _hook_of_each_step(callback):
            yield f"{type(callback).__name__} has {overridden}"


def _hook_of_each_step(callback: Callback) -> str | None:
    for hook in (*AROUND_STEP, *IN_STEP):
        found = implementation(callback, hook)
        if found is getattr(Callback, hook):
            continue
        is_aware = str(getattr(found, "__module__", "")).startswith(EXECUTION_AWARE) and not _saves_by_clock(callback)
        if hook in IN_STEP or not is_aware:
            return hook
    return None


def implementation(owner: object, hook: str) -> Any:
    """The function behind a hook: a class's, or one that was put on the instance."""
    method = getattr(owner, hook)
    return getattr(method, "__func__", method)


def _saves_by_clock(callback: Callback) -> bool:
    return isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None
