"""Batches of a dataset that is kept in memory as tensors."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A new order of the examples in each epoch, drawn from (seed, epoch) and from nothing else.

    Lightning tells the epoch to whatever is a loader's `sampler`.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next order that of `epoch`."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Indices of all examples in this epoch's order: (size,), int64."""
        # NumPy mixes the two numbers into one state; torch's generator takes one number and reads 32 bits of it.
        return torch.from_numpy(np.random.default_rng((self.seed, self.epoch)).permutation(self.size))

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()

    def __len__(self) -> int:
        return self.size


class InMemoryLoader:
    """Batches out of tensors that fit into memory: a batch is an index, so there is nothing to wait for.

    Args:
        tensors: the examples' parts, such as images and labels, all of the same length.
        batch_size: examples in a batch; the last batch of an epoch has what is left.
        sampler: the order of the examples; None keeps theirs.
    """

    batch_sampler = None  # as in a DataLoader without one; Lightning looks here before it looks at `sampler`

    def __init__(self, *tensors: Tensor, batch_size: int, sampler: EpochSampler | None = None) -> None:
        self.tensors = tensors
        self.batch_size = batch_size
        self.sampler = sampler

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = self.sampler.order() if self.sampler else None
        for start in range(0, len(self.tensors[0]), self.batch_size):
            batch = slice(start, start + self.batch_size)
            chosen = batch if order is None else order[batch]
            yield tuple(tensor[chosen] for tensor in self.tensors)

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.batch_size)
