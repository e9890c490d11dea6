"""One training step, captured: its batch and its results are always in the same memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from litlab.engine.graphs.cuda import CudaGraph
from litlab.engine.graphs.fingerprint import Constants, Fingerprint
from litlab.engine.logged import LoggedValues

Results = tuple[dict[str, Any], LoggedValues]
"""What a step gives: its outputs, and what the module has logged."""

Signature = tuple[Any, ...]
"""What batches that one graph can take have in common."""


class CapturedStep:
    """A step whose kernels were recorded on a copy of a batch.

    Args:
        graph: a new graph, which records the step here.
        batch: a batch like those that the step will be done with.
        step: does the step with a batch.

    Attributes:
        fingerprint: the training's, when it was last compared.
        constants: the optimizer's settings, which the graph keeps.
        done: how often the step was done by the graph.
        good: the training's step at which the graph was last found to be right; None before the first check.
        suspect: what has changed since, which may make it wrong.
    """

    fingerprint: Fingerprint
    constants: Constants

    def __init__(self, graph: CudaGraph, batch: Any, step: Callable[[Any], Results]) -> None:
        self.graph = graph
        self.done = 0
        self.good: int | None = None
        self.suspect: str | None = None
        leaves, self.structure = pytree.tree_flatten(batch)
        self.is_plain = type(batch) is tuple and all(isinstance(part, Tensor) for part in batch)  # for speed
        self.leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        own = pytree.tree_unflatten(self.leaves, self.structure)
        with graph.capturing():
            outputs, self.gathered = step(own)
        # Outputs that hang on their autograd graph would keep it, and with it a stream that nothing else uses.
        self.outputs: dict[str, Any] = pytree.tree_map_only(Tensor, Tensor.detach, outputs)

    def parts(self, batch: Any) -> list[Any] | None:
        """Return the batch's parts, if it has the captured one's structure, shapes and types; else None."""
        if self.is_plain and type(batch) is tuple:
            leaves = list(batch)
            return leaves if len(leaves) == len(self.leaves) and all(map(_alike, leaves, self.leaves)) else None
        leaves, structure = pytree.tree_flatten(batch)
        return leaves if structure == self.structure and all(map(_alike, leaves, self.leaves)) else None

    def replay(self, parts: list[Any]) -> Results:
        """Do the step with the batch that has these parts."""
        for own, new in zip(self.leaves, parts, strict=True):
            if isinstance(own, Tensor):
                own.copy_(new, non_blocking=True)
        self.graph.replay()
        # The values are copied, because the next replay writes over them.
        return self.outputs, replace(self.gathered, values=self.gathered.values.clone())

    def release(self) -> None:
        """Give all memory back; the step cannot be done any more."""
        del self.leaves, self.outputs, self.gathered
        self.graph.release()


def signature(batch: Any) -> Signature:
    """Return what another batch must have in common with this one to be taken by the same graph."""
    leaves, structure = pytree.tree_flatten(batch)
    kinds = ((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return str(structure), *kinds


def batch_obstacle(batch: Any, device: torch.device) -> str | None:
    """Return what a batch holds that cannot be copied to a graph's own memory; None if nothing."""
    for part in pytree.tree_leaves(batch):
        if not isinstance(part, (Tensor, float, int, str, type(None))):
            return f"a batch holds a {type(part).__name__}"
        if isinstance(part, Tensor) and part.device != device:
            return f"a batch holds a tensor on the {part.device.type}"
        if isinstance(part, Tensor) and part.layout != torch.strided:
            return "a batch holds a sparse tensor"
    return None


def _alike(new: Any, own: Any) -> bool:
    if isinstance(own, Tensor):
        return isinstance(new, Tensor) and new.shape == own.shape and new.dtype == own.dtype
    return bool(new == own)
