"""The schema of a checkpoint from which a training can go on: what Lightning and the lab's own callbacks save."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, model_validator

from litlab.runs.record import Metrics


class Part(BaseModel):
    """Base of the parts; other callbacks, and other versions of Lightning, may save more."""

    model_config = ConfigDict(strict=True, extra="allow")


class Progress(Part):
    """How often something was begun and ended."""

    total: dict[str, NonNegativeInt]
    current: dict[str, NonNegativeInt]


class OptimizerProgress(Part):
    """How often an optimizer has stepped."""

    step: Progress
    zero_grad: Progress


class OptimizersProgress(Part):
    """The progress of automatic optimization."""

    optimizer: OptimizerProgress


class EpochState(Part):
    """What an exact continuation takes besides Lightning's own state."""

    after_step: Literal[True]
    """Whether the state was saved between two steps: in the middle of one, it is of no use."""
    batches_that_stepped: NonNegativeInt = Field(alias="_batches_that_stepped")
    validates: bool = False
    """Whether a validation follows; an earlier version saved no such value."""
    examples: NonNegativeInt
    random: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """The generators' states, of each process."""


class LoaderState(Part):
    """The state of the loaders."""

    combined_loader: list[Any] = []


class FitLoop(Part):
    """The state of Lightning's loops."""

    state: LoaderState = Field(alias="state_dict")
    epoch_state: EpochState = Field(alias="epoch_loop.state_dict")
    epoch_progress: Progress
    batch_progress: Progress = Field(alias="epoch_loop.batch_progress")
    scheduler_progress: Progress = Field(alias="epoch_loop.scheduler_progress")
    optimizers: OptimizersProgress = Field(alias="epoch_loop.automatic_optimization.optim_progress")
    manual: Progress = Field(alias="epoch_loop.manual_optimization.optim_step_progress")


class Loops(Part):
    """The loops of a Trainer."""

    fit_loop: FitLoop


class CheckpointsState(Part):
    """State of litlab.callbacks.checkpoints.Checkpoints."""

    best: float | None
    metrics: Metrics
    newest: dict[str, float]
    loggers: dict[str, dict[str, NonNegativeInt]]
    """How much each logger had written."""
    optimizer: dict[str, Any]
    schedule: dict[str, Any]


class LoggedMetric(Part):
    """A metric object of the module."""

    path: str
    state: dict[str, Any]
    updates: NonNegativeInt


class StepMetricsState(Part):
    """State of litlab.engine.metrics.StepMetrics."""

    skipped: NonNegativeInt
    places: dict[str, dict[str, bool | str]]
    epoch: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]
    metrics: dict[str, LoggedMetric]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if unknown := (self.epoch.keys() | self.metrics.keys()) - self.places.keys():
            raise ValueError(f"{', '.join(sorted(unknown))} was not logged")
        return self


class ThroughputState(Part):
    """State of litlab.callbacks.throughput.Throughput."""

    images: NonNegativeInt
    seconds: NonNegativeFloat
    images_before: NonNegativeInt
    epoch_seconds: NonNegativeFloat


class Callbacks(Part):
    """States of the callbacks that every run has."""

    checkpoints: CheckpointsState = Field(alias="Checkpoints")
    step_metrics: StepMetricsState = Field(alias="StepMetrics")
    throughput: ThroughputState = Field(alias="Throughput")


class OptimizerState(Part):
    """State dict of an optimizer; `litlab.engine.restored` compares it with the optimizer itself."""

    state: dict[int, dict[str, Any]]
    param_groups: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Resumable(Part):
    """All that a checkpoint must hold besides the weights."""

    epoch: NonNegativeInt
    global_step: NonNegativeInt
    version: str = Field(alias="pytorch-lightning_version")
    loops: Loops
    callbacks: Callbacks
    optimizer_states: list[OptimizerState]
    lr_schedulers: list[dict[str, Any]]

    @model_validator(mode="after")
    def _steps_agree(self) -> Self:
        fit_loop = self.loops.fit_loop
        counted = (fit_loop.optimizers.optimizer.step.total, fit_loop.manual.total)
        if self.global_step not in [progress.get("completed") for progress in counted]:
            raise ValueError(f"global_step={self.global_step} is not the number of steps of its optimizers")
        return self
