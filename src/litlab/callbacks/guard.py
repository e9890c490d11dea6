"""Callbacks that only watch a training can neither end it nor change its numbers."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import nn

from litlab.distributed.group import all_gather, current_rank
from litlab.engine.random_state import preserved_random_state
from litlab.errors import ProcessLost
from litlab.messages import first_lines
from litlab.runs.storage_faults import STORAGE_FAULTS

log = logging.getLogger(__name__)

UNGUARDED = ("setup",)
"""Hooks that run before anything can be lost: what a callback refuses there is told before the first step."""

COLLECTIVE = tuple(f"on_{stage}_end" for stage in ("validation", "test", "train", "train_epoch"))
"""Hooks in which the processes of a training exchange what they have seen: all of them do, or none."""


def guarded(name: str, watcher: Callback) -> Callback:
    """Return the callback so that an error of its hooks is logged in one warning, and no hook is called from then on.

    Hooks that are not called for each batch leave the random number generators as they were.

    Args:
        name: what the warning calls the callback, such as `views.confusion`.
        watcher: a callback whose results no training depends on.
    """
    guard = Guard(name)
    for hook, default in vars(Callback).items():
        own = getattr(type(watcher), hook, default)
        if callable(default) and not hook.startswith("_") and hook not in UNGUARDED and own is not default:
            setattr(watcher, hook, guard.wrap(hook, getattr(watcher, hook)))
    return watcher


class Guard:
    """Whether a callback has failed, and what is called instead of its hooks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failed = False

    def wrap(self, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls a hook as long as none has failed."""
        instead: Any = {} if hook == "state_dict" else None

        @wraps(call)
        def guarded_call(*args: Any, **kwargs: Any) -> Any:
            if hook in COLLECTIVE and current_rank().world_size > 1:
                self._agree()
            if self.failed:
                return instead
            try:
                if "_batch_" in hook:  # often called, and to keep the state takes 0.2 ms
                    return call(*args, **kwargs)
                with preserved_random_state():
                    return call(*args, **kwargs)
            except ProcessLost:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in STORAGE_FAULTS:
                    raise
                self._fail(f"{type(error).__name__}: {first_lines(error)} ({_where(error)})")
            return instead

        return guarded_call

    def _agree(self) -> None:
        """Fail if the callback has failed in another process, which will not answer any more."""
        if any(all_gather(self.failed)) and not self.failed:
            self._fail("it failed in another process")

    def _fail(self, reason: str) -> None:
        self.failed = True
        log.warning("%s: %s; it is left out from here on, the training is not affected", self.name, reason)


def _where(error: Exception) -> str:
    """The line of code that raised the error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run parts of a module in here without a trace: random state, buffers and training modes are restored.

    A forward pass can change more than it seems to: batch normalization counts, spectral normalization iterates.
    """
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    with torch.no_grad(), preserved_random_state():
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer.copy_(before)
