"""Callbacks that observe a training, or stop it."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR

from litlab.errors import Pruned


class Watch(Callback):
    """Records losses, gradients and parameters during a training.

    Attributes:
        losses: the training loss of each batch.
        before, after: the parameters at the start and at the end, by name.
        with_gradient: names of parameters that had a non-zero gradient.
        not_finite: names of parameters that had a gradient with NaN or infinity.
        steps: optimizer steps done.
        seconds: time of the fastest batch.
        draws: whether a step draws from torch's generator.
        frozen: names of parameters with requires_grad=False.
        optimizers: classes of the optimizers; empty for manual optimization.
        optimized: names of parameters that an optimizer has.
        schedules: how often each scheduler was stepped, and how often it should have been.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        self.with_gradient: set[str] = set()
        self.not_finite: set[str] = set()
        self.draws = False
        self.frozen: set[str] = set()
        self.optimizers: list[type] = []
        self.optimized: set[str] = set()
        self.steps = 0
        self.seconds, self._last = math.inf, math.nan
        self.schedules: dict[str, tuple[int, int]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the parameters, and note which are trained."""
        self.before = _copied(pl_module)
        self.optimizers = [type(one) for one in trainer.optimizers] if pl_module.automatic_optimization else []
        groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        for name, parameter in pl_module.named_parameters():
            if not parameter.requires_grad:
                self.frozen.add(name)
            if id(parameter) in optimized:
                self.optimized.add(name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the generator's state."""
        self._drawn = torch.get_rng_state()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record which parameters have a gradient."""
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                if parameter.grad.isfinite().all():
                    self.with_gradient |= {name} if parameter.grad.any() else set()
                else:
                    self.not_finite.add(name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss."""
        self.draws |= not torch.equal(self._drawn, torch.get_rng_state())
        now = time.perf_counter()
        self.seconds, self._last = min(self.seconds, now - self._last), now  # of the first there is no number
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self.losses.append(float(loss.detach()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the parameters and the number of scheduler steps."""
        self.after, self.steps = _copied(pl_module), trainer.global_step
        for config in trainer.lr_scheduler_configs if pl_module.automatic_optimization else ():
            schedule = config.scheduler
            if not isinstance(schedule, ReduceLROnPlateau | SWALR):  # the one waits, the other begins late
                times = trainer.global_step if config.interval == "step" else trainer.current_epoch
                self.schedules[type(schedule).__name__] = schedule.last_epoch, times // config.frequency


class StopAt(Callback):
    """Stops a training before a batch of its second epoch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop.

        Raises:
            Pruned: here.
        """
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            raise Pruned("stopped by the check")


def _copied(module: LightningModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
