"""Learning rates and step counters on the device, where a CUDA graph finds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer


class DeviceRates:
    """Lets an optimizer read its learning rates from the device and count its steps there, while a step is done.

    Steps with and without a graph then compute the same. Between steps the rates are the numbers that schedules, curves
    and checkpoints know.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._device = next(weight.device for group in optimizer.param_groups for weight in group["params"])
        self._rates: list[Tensor] = []
        self._numbers: list[float] = []
        self._state: Any = None

    @staticmethod
    def obstacle(optimizer: Optimizer) -> str | None:
        """Return why the optimizer cannot do that; None if it can."""
        if all(group.get("fused") or "capturable" in group for group in optimizer.param_groups):
            return None
        hint = "; optimizer.fused=true does not" if isinstance(optimizer, SGD) else ""
        return f"{type(optimizer).__name__} computes in Python what changes from step to step{hint}"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Do the step inside this block."""
        self._update()
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        kept: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "capturable") if key in group} for group in groups
        ]
        for group, rate in zip(groups, self._rates, strict=False):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, settings in zip(groups, kept, strict=True):
                group.update(settings)

    def _update(self) -> None:
        """Bring new rates, and what was computed or restored elsewhere, to the device."""
        groups = self.optimizer.param_groups
        for _ in groups[len(self._rates) :]:
            self._rates.append(torch.zeros((), device=self._device))
            self._numbers.append(0.0)
        for index, group in enumerate(groups):
            number = float(group["lr"])
            if number != self._numbers[index]:
                self._numbers[index] = number
                self._rates[index].fill_(number)
        if self.optimizer.state is not self._state:  # new, or loaded from a checkpoint
            self._state = self.optimizer.state
            for parameter, state in self._state.items():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.ndim == 0:  # such as Adam's counter
                        state[key] = value.to(parameter.device)
