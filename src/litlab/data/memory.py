"""Batches of a dataset that is kept in memory as tensors."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from litlab.data.order import EpochSampler, Resumable
from litlab.errors import UserError

AT_ONCE = 2**20
"""Bytes that are gathered at once: one operation for several small batches is faster than one for each."""


class InMemoryLoader(Resumable):
    """Batches out of tensors that fit into the memory of the device: a batch is an index, there is nothing to wait for.

    Args:
        tensors: the examples' parts, such as images and labels, all of the same length and on the same device.
        batch_size: examples in a batch, of which each process has its share; an epoch's last one has what is left.
        sampler: the order of the examples in a training; None keeps theirs, in a validation or a test.
        indices: the examples to take, int64; None takes all.

    Raises:
        UserError: the parts are of different lengths.
    """

    batch_sampler = None  # as in a DataLoader without one; Lightning looks here before it looks at `sampler`

    def __init__(
        self, *tensors: Tensor, batch_size: int, sampler: EpochSampler | None = None, indices: Tensor | None = None
    ) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise UserError(f"the parts of the examples are of different lengths: {', '.join(map(str, lengths))}")
        self.tensors = tensors
        self.indices = indices
        size = len(tensors[0] if indices is None else indices)
        self.sampler = sampler or EpochSampler(size, seed=0, shuffle=False, filled=False)
        self.sampler.share_batches(batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.resumed(self._rest)

    def _rest(self) -> Iterator[tuple[Tensor, ...]]:
        order = self.sampler.order()
        examples = (order if self.indices is None else self.indices[order]).to(self.tensors[0].device)
        shares = self.sampler.shares(examples)
        bytes_each = sum(tensor[:1].nbytes for tensor in self.tensors)
        batches_at_once = max(1, AT_ONCE // max(1, bytes_each * self.sampler.batch_size))
        while several := list(islice(shares, batches_at_once)):
            chosen, sizes = torch.cat(several), [len(share) for share in several]
            yield from zip(*(torch.split(tensor[chosen], sizes) for tensor in self.tensors), strict=True)
