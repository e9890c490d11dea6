"""Learning-rate schedules over a whole training; the optimizer's own learning rate is their peak."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from typing_extensions import override


class OneCycle(OneCycleLR):
    """Rises to the optimizer's learning rate, then falls far below where it began (Smith and Topin, 2017).

    The momentum stays what it is, so that steps can be CUDA graphs.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float) -> None:
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup, cycle_momentum=False)


class Cosine(CosineAnnealingLR):
    """Falls from the optimizer's learning rate along half a cosine (Loshchilov and Hutter, 2016).

    Args:
        optimizer: whose learning rates are moved.
        total_steps: steps of the whole training.
        final_lr: the learning rate after the last step.
        warmup: share of the steps in which the learning rate first rises in a straight line.
    """

    warmup_steps = 0

    def __init__(self, optimizer: Optimizer, total_steps: int, final_lr: float, warmup: float = 0.0) -> None:
        if warmup:  # otherwise its state is that of PyTorch's class, as in checkpoints of former versions
            self.warmup_steps = int(warmup * total_steps)
        super().__init__(optimizer, T_max=total_steps, eta_min=final_lr)

    @override
    def get_lr(self) -> list[float | Tensor]:
        step, rising = self.last_epoch, self.warmup_steps
        if not rising:
            return super().get_lr()
        if step < rising:
            return [rate * (step + 1) / (rising + 1) for rate in self.base_lrs]
        fallen = (1 - math.cos(math.pi * (step - rising) / (self.T_max - rising))) / 2
        return [rate + (self.eta_min - rate) * fallen for rate in self.base_lrs]
