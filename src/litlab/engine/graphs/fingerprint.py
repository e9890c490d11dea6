"""What a captured step has taken for granted."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import is_not
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps what is called with it."""

FRAMEWORKS = frozenset(vars(LightningModule()))
"""Attributes that any module has; Lightning and PyTorch change them, and those that matter are looked at by name."""


MOVING = ("lr", "capturable")
"""Settings of an optimizer that DeviceRates moves to the device."""


@dataclass(frozen=True)
class Fingerprint:
    """A training's state, as far as a CUDA graph of its step keeps it as it was; values by the names of what they are.

    Attributes:
        fixed: memory addresses and all that decides which kernels run: if one has changed, the graph is wrong.
        noticed: plain values, and the sizes of containers, that the module and its parts keep in Python: if one has
            changed, the graph may be wrong.
        counted: the same of metrics, which other parts of a training change, too.
    """

    fixed: Mapping[str, Any]
    noticed: Mapping[str, Any]
    counted: Mapping[str, Any]

    @classmethod
    def of(cls, trainer: Trainer, optimizer: Optimizer) -> "Fingerprint":
        """Take the fingerprint of the training as it is now."""
        module = trainer.lightning_module
        fixed = {
            **dict(_tensors(module)),
            **dict(_settings(trainer, optimizer)),
            **dict(_optimizer_state(module, optimizer)),
        }
        parts = list(module.named_modules())
        for name, part in parts:
            fixed |= {f"{_at(name)}{hooks}": len(vars(part)[hooks]) for hooks in HOOKS}
            fixed[f"{_at(name)}training"] = part.training
        noticed = {
            key: value for name, part in parts if not isinstance(part, Metric) for key, value in _plain(name, part)
        }
        counted = {key: value for name, part in parts if isinstance(part, Metric) for key, value in _plain(name, part)}
        return cls(fixed, noticed, counted)

    def change_within_step(self, after: "Fingerprint") -> str | None:
        """Return the name of something that is different after a step; None if a graph can repeat all of the step."""
        for kind in ("fixed", "noticed", "counted"):
            if changed := difference(getattr(self, kind), getattr(after, kind)):
                return changed
        return None


class Constants:
    """The settings of an optimizer that a graph keeps, all but the learning rate; cheap to compare at each step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.groups = list(optimizer.param_groups)
        self.values = [
            (group, key, group[key]) for group in self.groups for key in group if key not in (*MOVING, "params")
        ]

    def have_changed(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer has other settings now."""
        if len(self.groups) != len(optimizer.param_groups) or any(map(is_not, self.groups, optimizer.param_groups)):
            return True
        return any(
            group[key] is not value and (isinstance(value, Tensor) or group[key] != value)
            for group, key, value in self.values
        )


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the name of a value that is not the same in both; None if all are."""
    if before == after:
        return None
    return next(name for name in (*before, *after) if before.get(name) != after.get(name))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, weight in module.named_parameters():
        yield name, _kept(weight)
        yield f"{name}.requires_grad", weight.requires_grad
        hooks = weight._backward_hooks, getattr(weight, "_post_accumulate_grad_hooks", None)
        yield f"{name}'s hooks", sum(len(kind or ()) for kind in hooks)
    for name, buffer in module.named_buffers():
        yield name, _kept(buffer)


def _settings(trainer: Trainer, optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    for name in ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"):
        yield f"trainer.{name}", getattr(trainer, name)
    for index, group in enumerate(optimizer.param_groups):
        settings = {key: value for key, value in group.items() if key not in MOVING}
        yield from ((f"the optimizer's {key} (group {index})", _kept(value)) for key, value in settings.items())
    yield "the optimizer's hooks", len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def _optimizer_state(module: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    names: dict[Any, str] = {weight: name for name, weight in module.named_parameters()}
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            yield f"the optimizer's {key} of {names.get(weight, 'a weight')}", _kept(value)


def _plain(name: str, part: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in vars(part).items():
        if key not in FRAMEWORKS and (kept := _kept(value)) is not None:
            yield f"{_at(name)}{key}", kept


def _kept(value: Any) -> Any:
    """Return what a graph keeps of a value: a tensor's address, a plain value, the size of a container; else None."""
    if isinstance(value, Tensor):
        return (value.data_ptr(), tuple(value.shape)) if value.layout == torch.strided else id(value)
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list, dict, set, deque)):
        return tuple(map(_kept, value)) if isinstance(value, tuple) else len(value)
    return None


def _at(name: str) -> str:
    return f"{name}." if name else "self."
