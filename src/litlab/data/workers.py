"""Batches of a dataset that is read from disk as it is needed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from litlab.data.order import EpochSampler, Resumable
from litlab.distributed.signals import stop


class WorkersLoader(Resumable, DataLoader[Any]):
    """PyTorch's DataLoader, made to go on in the middle of an epoch.

    What a dataset itself draws at random in the worker processes is drawn anew then; augment batches instead, on the
    device.

    Args:
        dataset: the examples.
        batch_size: examples in a batch, of which each process has its share; an epoch's last one has what is left.
        num_workers: processes that read ahead; 0 reads in the training's own.
        sampler: the order of the examples in a training; None keeps theirs, in a validation or a test.
        pin_memory: whether batches are kept where a GPU can fetch them without waiting.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        num_workers: int,
        sampler: EpochSampler | None = None,
        pin_memory: bool = False,
    ) -> None:
        size: int = len(dataset)  # type: ignore[arg-type]
        order = sampler or EpochSampler(size, seed=0, shuffle=False, filled=False)
        order.share_batches(batch_size)
        super().__init__(
            dataset,
            max(1, order.counts(0)[0]),
            sampler=order,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # its own, or else each round would advance the one that training draws from
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self.resumed(self._read)

    def _read(self) -> Iterator[Any]:
        with stop.starting_processes():
            return super().__iter__()
