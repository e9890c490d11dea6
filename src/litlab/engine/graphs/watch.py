"""What Python does in a training step: a CUDA graph would do it once, when it is captured, and never again."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from litlab.engine.graphs.cuda import CudaGraph
from litlab.engine.graphs.fingerprint import Fingerprint
from litlab.engine.optimization import Batch

PROGRESS = ("global_step", "current_epoch", "is_last_batch")
"""Properties of the Trainer that tell how far the training is."""

RESULTS = ("callback_metrics", "logged_metrics", "progress_bar_metrics")
"""Properties of the Trainer that change when logged values have arrived, once an execution."""


@dataclass
class Watched:
    """A step that is looked at while it is done.

    Attributes:
        arguments: what the step is to be done with.
        reason: afterwards, why a graph cannot repeat the step; None if it can.
    """

    arguments: Batch
    reason: str | None = None


@contextmanager
def watching(trainer: Trainer, optimizer: Optimizer, graph: CudaGraph, arguments: Batch) -> Iterator[Watched]:
    """Look at the one step that is done in this block, which has been done before with such a batch."""
    watched = Watched(arguments.copy())
    uses: list[str] = []
    before, drawn = Fingerprint.of(trainer, optimizer), _host_generators(graph)
    with ExitStack() as stack:
        stack.enter_context(noting_reads(trainer, (*PROGRESS, *RESULTS), uses.append))
        if "batch_idx" in arguments:
            watched.arguments["batch_idx"] = WatchedIndex(arguments["batch_idx"], uses.append)
            if not any(_is_compiled(part) for part in trainer.lightning_module.modules()):  # they would trace it
                stack.enter_context(_NotingIndex())
        waits = stack.enter_context(graph.noting_waits())
        yield watched
    moved = [name for name, state in _host_generators(graph).items() if state != drawn[name]]
    changed = before.change_within_step(Fingerprint.of(trainer, optimizer))
    if uses:
        watched.reason = f"training_step reads {uses[0]}"
    elif moved:
        watched.reason = f"a step draws random numbers on the CPU, by {moved[0]}"
    elif changed:
        watched.reason = f"a step changes {changed} in Python"
    elif waits:
        watched.reason = f"a step waits for the device at {waits[0]}"


@contextmanager
def noting_reads(trainer: Trainer, names: Sequence[str], note: Callable[[str], Any]) -> Iterator[None]:
    """Tell of each read of these properties of the trainer, or of the module where it hands them on."""
    kind = type(trainer)

    def noted(name: str) -> property:
        def read(self: Trainer) -> Any:
            note(f"trainer.{name}")
            return getattr(kind, name).fget(self)

        return property(read, getattr(kind, name).fset)

    trainer.__class__ = type(kind.__name__, (kind,), {name: noted(name) for name in names})
    try:
        yield
    finally:
        trainer.__class__ = kind


class WatchedIndex(int):
    """A batch's index that tells when its value is used."""

    note: Callable[[str], Any]

    def __new__(cls, value: int, note: Callable[[str], Any]) -> "WatchedIndex":
        """Make an index with this value, which calls `note` with its name."""
        index = super().__new__(cls, value)
        index.note = note
        return index


def _noting(name: str) -> Callable[..., Any]:
    method = getattr(int, name)

    def noting(self: WatchedIndex, *args: Any) -> Any:
        self.note("batch_idx")
        return method(self, *args)

    return noting


OPERATORS = {
    name
    for name, method in vars(int).items()
    if name.startswith("__") and callable(method) and name not in ("__new__", "__getattribute__", "__getnewargs__")
}
for _name in OPERATORS:
    setattr(WatchedIndex, _name, _noting(_name))


class _NotingIndex(TorchFunctionMode):
    """Sees a watched index among the arguments of PyTorch's functions, which read its value by themselves."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            self._look_at(value)
        return func(*args, **(kwargs or {}))

    def _look_at(self, value: Any) -> None:
        if isinstance(value, WatchedIndex):
            value.note("batch_idx")
        elif isinstance(value, (tuple, list)):
            for part in value:
                self._look_at(part)


def _host_generators(graph: CudaGraph) -> dict[str, Any]:
    """Return the states of the generators that a replay does not draw from, by their names."""
    _, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    states: dict[str, Any] = {
        "Python's generator": random.getstate(),
        "NumPy's generator": (keys.tobytes(), *rest),
    }
    if graph.generator is not torch.default_generator:
        states["torch's CPU generator"] = torch.get_rng_state().numpy().tobytes()
    return states


def _is_compiled(part: torch.nn.Module) -> bool:
    return hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
