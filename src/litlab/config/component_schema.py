"""Settings of optimizers of PyTorch, and of the lab's loggers and schedules."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat
from pydantic import model_validator as cross_check

from litlab.config.types import Beta, InnerPath, OpenFraction, PositiveInt, Settings

MODULES = ("litlab.loggers", "litlab.schedulers")
"""Modules whose classes have their settings here."""


class Adam(Settings):
    """Settings of torch.optim.Adam."""

    lr: NonNegativeFloat
    """Learning rate; with a scheduler, its highest."""
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)]
    """Decay of the running averages of the gradient and of its square."""
    eps: PositiveFloat
    """Added to the denominator."""
    weight_decay: NonNegativeFloat
    """Pull of the weights towards zero."""
    fused: bool
    """Whether one kernel updates all weights: faster, and rounds differently."""


class AdamW(Adam):
    """Settings of torch.optim.AdamW."""


class SGD(Settings):
    """Settings of torch.optim.SGD."""

    lr: NonNegativeFloat
    """Learning rate; with a scheduler, its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """Share of the last step that the next one keeps."""
    nesterov: bool
    """Whether the gradient is taken where the momentum leads."""
    weight_decay: NonNegativeFloat
    """Pull of the weights towards zero."""
    fused: bool
    """Whether one kernel updates all weights: faster, and rounds differently."""

    @cross_check(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0")
        return self


class CSV(Settings):
    """Settings of litlab.loggers.CSV; it writes into the run's folder."""

    name: InnerPath
    """Folder in the run's folder; empty for none."""
    version: InnerPath
    """Folder in that folder."""


class TensorBoard(CSV):
    """Settings of litlab.loggers.TensorBoard; it writes into the run's folder."""

    default_hp_metric: bool
    """Whether Lightning adds a metric of its own to the HPARAMS tab."""


class LRSchedulerConfig(Settings):
    """When Lightning steps a schedule: what a `scheduler` node may have besides the arguments of its class."""

    interval: Literal["step", "epoch"] = "epoch"
    """Whether it is stepped after each optimizer step or after each epoch."""
    frequency: PositiveInt = 1
    """Steps, or epochs, between two of its steps."""
    monitor: str | None = None
    """Metric that it looks at, such as ReduceLROnPlateau's; null for checkpoint.monitor."""
    strict: bool = True
    """Whether a missing metric is an error."""


class OneCycle(Settings):
    """Settings of litlab.schedulers.OneCycle."""

    warmup: OpenFraction
    """Share of the steps in which the learning rate rises."""


class Cosine(Settings):
    """Settings of litlab.schedulers.Cosine."""

    final_lr: NonNegativeFloat
    """Learning rate of the last step."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the learning rate rises first."""
