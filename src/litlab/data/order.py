"""The order of the examples, and how far a loader has come in it."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

BatchT = TypeVar("BatchT")


class EpochSampler(DistributedSampler[int]):
    """A new order of the examples in each epoch, drawn from (seed, epoch) and from nothing else.

    Lightning tells the epoch to whatever is a loader's `sampler`.

    Args:
        size: how many examples there are.
        seed: what the orders are drawn from.
        shuffle: whether to draw them; otherwise the examples keep their order.
        processes: how many share the examples of an epoch; each gets every n-th, so that the batches of all processes
            together are those of a single one with batches so many times as large.
        process: which of them this is, counted from 0.
    """

    def __init__(self, size: int, seed: int, shuffle: bool = True, processes: int = 1, process: int = 0) -> None:
        examples = range(size)  # all that PyTorch's sampler asks of a dataset is its length
        super().__init__(examples, processes, process, shuffle, seed)  # type: ignore[arg-type]
        self.skip = 0

    def order(self) -> Tensor:
        """Indices of this process's examples in this epoch's order, without those to skip: int64."""
        size = len(self.dataset)  # type: ignore[arg-type]
        # NumPy mixes the two numbers into one state; torch's generator takes one number and reads 32 bits of it.
        order = np.random.default_rng((self.seed, self.epoch)).permutation(size) if self.shuffle else np.arange(size)
        shared = np.resize(order, self.total_size)  # as many for each: the first ones come again at the end
        return torch.from_numpy(shared[self.rank :: self.num_replicas][self.skip :])

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()


class Resumable:
    """What a loader needs to go on in the middle of an epoch; Lightning keeps its `state_dict` in checkpoints."""

    batch_size: Any
    sampler: Any
    _batches = 0
    _restored: dict[str, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were handed out."""
        return {"epoch": self.sampler.epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next round begin after those batches, if it is one of that epoch."""
        self._restored = state

    def resumed(self, batches: Callable[[], Iterator[BatchT]]) -> Iterator[BatchT]:
        """The rest of the round whose batches `batches` makes, in the sampler's order."""
        state, self._restored = self._restored, None
        self._batches = state["batches"] if state and state["epoch"] == self.sampler.epoch else 0
        self.sampler.skip = self._batches * self.batch_size
        for batch in batches():
            self._batches += 1
            yield batch
