"""The order of the examples, each process's share of it, and how far a loader has come in it."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import DistributedSampler

from litlab.errors import UserError

BatchT = TypeVar("BatchT")


class EpochSampler(DistributedSampler[int]):
    """A new order of the examples in each epoch, drawn from (seed, epoch) and from nothing else.

    The processes that train together share each batch: every n-th of its examples is one's, so that each example comes
    once an epoch and the shares differ by one at most. Lightning tells the epoch to whatever is a loader's `sampler`.

    Args:
        size: how many examples there are.
        seed: what the orders are drawn from.
        shuffle: whether to draw them; otherwise the examples keep their order.
        filled: whether a process that has no share of the last batch gets an example of it that does not count; a
            training, whose processes do each step together, needs that.
        processes: how many there are; None for those of torch.distributed.
        process: which of them this is, counted from 0.
        drop_last: whether an epoch leaves out its last batch if that is smaller than the others.

    Attributes:
        batch_size: examples in a batch of all processes together; the loader sets it.
        skip: batches to leave out at the beginning of the epoch.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        shuffle: bool = True,
        filled: bool = True,
        processes: int | None = None,
        process: int = 0,
        drop_last: bool = False,
    ) -> None:
        if processes is None:
            together = distributed.is_initialized()
            processes, process = (distributed.get_world_size(), distributed.get_rank()) if together else (1, 0)
        examples = range(size)  # all that PyTorch's sampler asks of a dataset is its length
        super().__init__(examples, processes, process, shuffle, seed)  # type: ignore[arg-type]
        self.size, self.filled, self.drop_last = size, filled, drop_last
        self.batch_size, self.skip = processes, 0

    def share_batches(self, batch_size: int) -> None:
        """Let the batches have this size, of all processes together.

        Raises:
            UserError: there is not an example for each process, or no batch is left.
        """
        if self.num_replicas > 1 and min(batch_size, self.size) < self.num_replicas:
            batch = f"a batch of {min(batch_size, self.size)}"
            hint = "take larger batches, more data, or fewer processes (trainer.devices)"
            raise UserError(f"{batch} cannot be shared by {self.num_replicas} processes: {hint}")
        if self.drop_last and self.size < batch_size:
            left = f"leaves no batch of {batch_size} out of {self.size} examples"
            raise UserError(f"data.drop_last=true: {left}; take smaller batches (data.batch_size)")
        self.batch_size = batch_size

    @property
    def batches(self) -> int:
        """In an epoch."""
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def counts(self, batch: int) -> tuple[int, int]:
        """How many examples of the epoch's batch with this number are this process's, and how many it has."""
        whole = min(self.batch_size, self.size - batch * self.batch_size)
        return len(range(self.rank, whole, self.num_replicas)), whole

    def order(self) -> Tensor:
        """Indices of the examples in this epoch's order: int64."""
        # NumPy mixes the two numbers into one state; torch's generator takes one number and reads 32 bits of it.
        order = np.random.default_rng((self.seed, self.epoch)) if self.shuffle else None
        return torch.from_numpy(order.permutation(self.size) if order else np.arange(self.size))

    def shares(self, order: Tensor) -> Iterator[Tensor]:
        """Split the epoch's order into batches and yield this process's part of each, unless it is empty."""
        for batch in torch.split(order, self.batch_size)[self.skip : self.batches]:
            share = batch if self.num_replicas == 1 else batch[self.rank :: self.num_replicas]
            if not len(share) and self.filled:
                share = batch[:1]
            if len(share):
                yield share

    def __iter__(self) -> Iterator[int]:
        for share in self.shares(self.order()):
            yield from share.tolist()

    def __len__(self) -> int:
        if self.size == 0:
            return 0
        most, last = (self.counts(batch)[0] for batch in (0, self.batches - 1))
        return most * (self.batches - 1) + max(last, int(self.filled))


class Resumable:
    """What a loader needs to go on in the middle of an epoch; Lightning keeps its `state_dict` in checkpoints.

    The state is the same in each process, and the next training may have another number of them.
    """

    sampler: Any
    _batches = 0
    _restored: dict[str, int] | None = None

    def __len__(self) -> int:
        """Batches in an epoch, of which the last may have nothing for this process."""
        batches: int = self.sampler.batches
        return batches

    @property
    def counts(self) -> tuple[int, int]:
        """How many examples of the batch that was handed out last are this process's, and how many it has in all."""
        counts: tuple[int, int] = self.sampler.counts(self._batches - 1)
        return counts

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were handed out."""
        return {"epoch": self.sampler.epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next round begin after those batches, if it is one of that epoch.

        Raises:
            UserError: it is not the state of such a loader.
        """
        if not all(isinstance(state.get(name), int) and state[name] >= 0 for name in ("epoch", "batches")):
            raise UserError("the checkpoint has no fitting state of the data's loader")
        self._restored = state

    def resumed(self, batches: Callable[[], Iterator[BatchT]]) -> Iterator[BatchT]:
        """The rest of the round whose batches `batches` makes, in the sampler's order."""
        state, self._restored = self._restored, None
        self._batches = state["batches"] if state and state["epoch"] == self.sampler.epoch else 0
        self.sampler.skip = self._batches
        for batch in batches():
            self._batches += 1
            yield batch
