"""What a step has logged, and what becomes of each name."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import add

from torch import Tensor

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


@dataclass
class Step:
    """A batch that is done; with accumulated gradients only some end with a step of the optimizer.

    Attributes:
        share: how many of the batch's examples are this process's.
    """

    index: int
    batch_size: int
    share: int
    stepped: bool
    learning_rate: float
    gathered: LoggedValues
