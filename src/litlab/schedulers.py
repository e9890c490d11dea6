"""Learning-rate schedules over a whole training; the optimizer's own learning rate is their peak."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR


class OneCycle(OneCycleLR):
    """Rises to the optimizer's learning rate, then falls far below where it began (Smith and Topin, 2017).

    The momentum stays what it is, so that steps can be CUDA graphs.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float) -> None:
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup, cycle_momentum=False)


class Cosine(CosineAnnealingLR):
    """Falls from the optimizer's learning rate along half a cosine (Loshchilov and Hutter, 2016)."""

    def __init__(self, optimizer: Optimizer, total_steps: int, final_lr: float) -> None:
        super().__init__(optimizer, T_max=total_steps, eta_min=final_lr)
