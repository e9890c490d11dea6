"""The numeric check of a captured step: done with and without its graph from the same state, it must do the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from litlab.engine.graphs.captured import Results
from litlab.engine.logged import LOSS, LoggedValues

EXACT = ("gradient_norm", LOSS)
"""Values that are compared as they are; others may count an example at a tie differently."""


@dataclass(frozen=True)
class Tolerance:
    """How much a graph and an eager step may differ, since a GPU may add up in any order.

    Attributes:
        value: of the loss, the gradient's norm and what is logged, relative.
        update: of the change of all weights together, relative to it.
    """

    value: float
    update: float

    @classmethod
    def of(cls, precision: str) -> "Tolerance":
        """Return the tolerance for one of Lightning's number formats."""
        return cls(1e-3, 0.1) if precision == "32-true" else cls(2e-2, 0.3)


class Snapshot:
    """All that a training step changes on the device, as it is now, such as weights and the optimizer's averages."""

    def __init__(self, trainer: Trainer, optimizer: Optimizer, generator: torch.Generator) -> None:
        self.weights = [weight.detach() for group in optimizer.param_groups for weight in group["params"]]
        own = {id(tensor): tensor.detach() for tensor in _changing(trainer, optimizer)}
        self.tensors = [*self.weights, *own.values()]
        self.generator = generator
        self.before = [tensor.clone() for tensor in self.tensors]
        self.random = generator.get_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Make everything as it was, in the same memory."""
        for tensor, before in zip(self.tensors, self.before, strict=True):
            tensor.copy_(before)
        self.generator.set_state(self.random)

    def updates(self) -> list[Tensor]:
        """Return by how much each weight has changed since."""
        return [weight - before for weight, before in zip(self.weights, self.before, strict=False)]


@dataclass
class Outcome:
    """What a step has come to: what it logged, the change of each weight, and where the generator is."""

    gathered: LoggedValues
    updates: list[Tensor]
    random: Tensor

    def difference(self, expected: "Outcome", tolerance: Tolerance, batch_size: int) -> str | None:
        """Return in words what differs from the expected outcome by more than the tolerance; None if nothing does."""
        names = self.gathered.names
        if names != expected.gathered.names:
            return "the step logs other names"
        if not torch.equal(self.random, expected.random):
            return "the step draws another number of random numbers"
        wrong = get_total_norm([own - other for own, other in zip(self.updates, expected.updates, strict=True)])
        norms = torch.stack([wrong, get_total_norm(expected.updates)]).float()
        own, other, norms = torch.cat([self.gathered.values, expected.gathered.values, norms]).tensor_split(
            [len(names), 2 * len(names)]
        )  # one copy to the host
        values = torch.cat([own, other, norms]).tolist()
        for name, value, right in zip(names, values, values[len(names) :], strict=False):
            ties = 0.0 if name in EXACT else 1.5 / batch_size
            if not _close(value, right, tolerance.value, ties):
                return f"{name or 'the loss'} is {value:.6g} instead of {right:.6g}"
        differs, whole = values[-2:]
        if not differs <= tolerance.update * whole and whole == whole:
            return f"the change of the weights is {differs / whole if whole else 1:.0%} off"
        return None


@dataclass
class Verdict:
    """What a check has found.

    Attributes:
        results: of the eager step, which counts.
        difference: how the graph's step differs from it; None if it does not.
        repeatable: whether a second eager step does not differ from the first as much.
    """

    results: Results
    difference: str | None
    repeatable: bool = True


def check(
    snapshot: Snapshot,
    replay: Callable[[], Results],
    step: Callable[[], Results],
    tolerance: Tolerance,
    batch_size: int,
) -> Verdict:
    """Do a step by its graph and, from the same state, without; what the latter does is what remains.

    Args:
        snapshot: the state to begin from, which is the present one.
        replay: does the step by its graph.
        step: does the same step without.
        tolerance: how much they may differ.
        batch_size: examples in the batch.
    """

    def outcome(results: Results) -> Outcome:
        return Outcome(results[1], snapshot.updates(), snapshot.generator.get_state())

    graphs = outcome(replay())
    snapshot.restore()
    results = step()
    eager = outcome(results)
    difference = graphs.difference(eager, tolerance, batch_size)
    if difference is None:
        return Verdict(results, None)
    snapshot.restore()
    results = step()
    repeatable = outcome(results).difference(eager, tolerance, batch_size) is None
    return Verdict(results, difference, repeatable)


def _changing(trainer: Trainer, optimizer: Optimizer) -> Iterator[Tensor]:
    module = trainer.lightning_module
    yield from module.parameters()
    yield from module.buffers()
    yield from (leaf for state in optimizer.state.values() for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
    for owner in (module, *trainer.callbacks):  # type: ignore[attr-defined]
        for kept in vars(owner).values():
            if isinstance(kept, Tensor):
                yield kept
            elif isinstance(kept, nn.Module) and owner is not module:  # such as an average of the weights
                yield from kept.parameters()
                yield from kept.buffers()


def _close(value: float, expected: float, relative: float, ties: float) -> bool:
    if value == expected or (value != value and expected != expected):
        return True
    return abs(value - expected) <= relative * (abs(expected) + 1e-2) + ties
