"""The average of the weights over the last steps."""

from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer


class EMA(WeightAveraging):
    """Validates, tests and saves an exponential moving average of the weights instead of the weights themselves.

    Lightning's callback does the exchange of the two. The average itself is updated by the optimizer, so that this
    happens at each step however many make an execution, and as a part of the CUDA graph if there is one.

    Args:
        decay: share of the average that the next step keeps; less in the first steps, (1 + n) / (10 + n) after n, so
            that the average forgets the weights drawn at random (as TensorFlow's ExponentialMovingAverage does).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average where the module will be; it is moved there only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Never: the optimizer does it."""
        return False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do nothing, where Lightning's callback would have to see every step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hang the update onto the optimizer."""
        averaged: Any = self._average_model
        count = averaged.n_averaged

        @torch.no_grad()
        def update(optimizer: Optimizer, *_: Any) -> None:
            if all(weight.grad is None for group in optimizer.param_groups for weight in group["params"]):
                return  # of a batch that was dropped
            dropped = getattr(optimizer, "found_inf", 0)  # … on the device, by litlab.engine.nonfinite
            share = (9 / (10 + count)).clamp(min=1 - self.decay) * (1 - dropped)
            for own, new in zip(_state(averaged.module), _state(pl_module), strict=True):
                own.lerp_(new, share.to(own.dtype)) if own.is_floating_point() else own.copy_(new)
            count.add_(1 - dropped if isinstance(dropped, int) else (1 - dropped).to(count.dtype))

        trainer.optimizers[0].register_step_post_hook(update)


def _state(module: torch.nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
