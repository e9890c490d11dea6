"""What a step has logged, and what becomes of each name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import add

from torch import Tensor
from torch.optim import Optimizer

LOSS = ""
"""The name under which the loss itself travels with the values that the step has logged."""


REDUCTIONS: dict[str, Callable[[float, float], float]] = {"mean": add, "sum": add, "max": max, "min": min}
"""How the values of an epoch become one, by Lightning's names; for the mean the sum is divided at the end."""


@dataclass(frozen=True)
class LogOptions:
    """Where the values of one name go."""

    on_step: bool = True
    on_epoch: bool = False
    logger: bool = True
    prog_bar: bool = False
    suffixes: bool = False
    reduction: str = "mean"

    def name(self, name: str, suffix: str) -> str:
        """Lightning's name of the curve; it tells the curve of the steps from that of the epochs if there are both."""
        return f"{name}_{suffix}" if self.suffixes else name


@dataclass
class LoggedValues:
    """What one step has logged: plain numbers, and values that are still on the device.

    Attributes:
        weights: what counts in the mean over an epoch instead of the size of the batch.
    """

    numbers: dict[str, float]
    weights: dict[str, float]
    names: tuple[str, ...]
    values: Tensor


def learning_rates(optimizers: Iterable[Optimizer]) -> dict[str, float]:
    """The learning rate of each parameter group, by the name of its curve; a group may have a `name` of its own."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if len(groups) == 1:
        return {"learning_rate": groups[0]["lr"]}
    return {f"learning_rate/{group.get('name', index)}": group["lr"] for index, group in enumerate(groups)}


@dataclass
class Step:
    """A batch that is done; with accumulated gradients only some end with a step of the optimizer.

    Attributes:
        share: how many of the batch's examples are this process's.
        rates: the learning rates that it was done with, by the names of their curves.
    """

    index: int
    batch_size: int
    share: int
    stepped: bool
    rates: dict[str, float]
    gathered: LoggedValues
