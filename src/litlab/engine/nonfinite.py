"""Batches whose loss is not a number."""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed
from torch.optim import Optimizer

from litlab.distributed.group import current_rank, noticing_loss


class NonFiniteSkip:
    """Drops a batch whose loss is not finite, with all that it would leave behind; made before each batch.

    Args:
        module: whose buffers, such as the statistics of a batch normalization, stay as they are now.
        optimizer: whose step shall change nothing.
        accumulates: whether its step takes the gradients of other batches, too.
    """

    def __init__(self, module: LightningModule, optimizer: Optimizer, accumulates: bool) -> None:
        self.optimizer = optimizer
        self.on_device = skips_on_device(module, optimizer) and not accumulates and not _begins_momentum(optimizer)
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def backward(self, loss: Tensor, backward: Callable[[Tensor], None]) -> None:
        """Compute the gradients by `backward`, unless the batch is dropped."""
        lost = (~loss.detach().isfinite()).int()
        if current_rank().world_size > 1:  # what one process drops, all do
            with noticing_loss():
                distributed.all_reduce(lost, distributed.ReduceOp.MAX)
        if self.on_device:  # without waiting: a fused optimizer asks the device itself
            self.optimizer.found_inf = lost.float()  # type: ignore[attr-defined]
            backward(loss)  # it refuses buffers that have been written to since they were read
            for buffer, before in self.buffers:
                buffer.copy_(torch.where(lost.bool(), before, buffer))
        elif not lost:
            backward(loss)
        else:  # without gradients an optimizer does nothing
            for buffer, before in self.buffers:
                buffer.copy_(before)


def skips_on_device(module: LightningModule, optimizer: Optimizer) -> bool:
    """Whether a batch can be dropped without waiting for the device."""
    return module.device.type == "cuda" and bool(optimizer.defaults.get("fused"))


def _begins_momentum(optimizer: Optimizer) -> bool:
    """Whether the next step allocates momentum, which a fused SGD that drops the batch itself leaves uninitialized."""
    return any(
        group.get("momentum")
        and all(optimizer.state.get(weight, {}).get("momentum_buffer") is None for weight in group["params"])
        for group in optimizer.param_groups
    )
