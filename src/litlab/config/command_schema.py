"""Settings of `train` that are not the run's own: what goes on, what is swept over, what starts it."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
)
from pydantic import model_validator as cross_check

from litlab.config.schema import Paths, Train
from litlab.config.types import Component, Duration, Seed, Settings

MOST_JOBS = 100_000
"""Of a sweep: an hour's work for the sweep itself, and more than memory and files are made for."""


class Resume(Settings):
    """Going on with a run that was stopped."""

    run: str | int | None
    """The run's folder, or `last` for the newest unfinished one; null starts a new run. `resume=…` is short for it."""
    force: bool
    """Whether the run may go on with other settings than it began with."""


class Sweep(Settings):
    """What every kind of sweep can be told."""

    objectives: Annotated[dict[str, Literal["min", "max"]], Field(min_length=1)] | None
    """Metrics by which jobs are compared, and which values are the better ones; null for the monitored one alone."""
    pruner: Literal["none", "median", "hyperband"]
    """Which rule of Optuna's stops a job early that does worse than the others did."""
    storage: str | None
    """URL of what keeps the study: a database, or grpc:// and Optuna's proxy; null for a file in the folder."""
    on_error: Literal["continue", "stop"]
    """Whether the other jobs go on when one fails."""
    over: dict[str, Annotated[int, Field(ge=2)] | Annotated[list[bool | int | float | str], Field(min_length=2)]] = (
        Field(default={})
    )
    """Keys that the jobs of a trial differ in, {seed: 3} for 0, 1 and 2; a trial is judged by the mean of its jobs."""
    timeout: Duration | None = None
    """Time, as DD:HH:MM:SS or 90m, 2h, 1d, after which no job is begun any more; null for no limit."""
    dry_run: bool
    """Whether the jobs are only listed."""

    @cross_check(mode="after")
    def _storage_holds_no_password(self) -> Self:
        if re.search(r"://[^:/]*:[^@]+@|[?&][^=&]*passw", self.storage or ""):
            raise ValueError(
                "sweep.storage: holds a password, which would be written into the sweep's folder; leave it out: "
                "PostgreSQL's library takes it from ~/.pgpass or PGPASSWORD"
            )
        return self

    @cross_check(mode="after")
    def _pruner_fits(self) -> Self:
        if self.pruner != "none" and self.objectives and len(self.objectives) > 1:
            raise ValueError(
                f"sweep.pruner={self.pruner} goes by one metric: leave it out, or all but one of objectives"
            )
        if self.pruner == "hyperband" and self.over:  # it keeps the first value of each rung, not the mean
            raise ValueError("sweep.pruner=hyperband judges single jobs: with sweep.over take sweep.pruner=median")
        return self


class Grid(Sweep):
    """A job for each combination of the values."""

    sampler: Literal["grid"]
    """What chooses the jobs."""
    zip: list[str] | list[list[str]]
    """Keys whose values are paired, the first with the first and so on; several such lists in a list."""
    exclude: list[str]
    """Conditions such as 'optimizer.lr>0.01 and data.batch_size==50' on combinations to leave out."""


class Sampled(Sweep):
    """Jobs that are drawn from the values and intervals."""

    sampler: Literal["random", "tpe", "cmaes", "gp", "nsgaii"]
    """What chooses the jobs: chance, or one of Optuna's samplers, which look at the jobs before."""
    n_trials: Annotated[int, Field(gt=0, le=MOST_JOBS)]
    """Number of trials; without `over` each is one job."""
    seed: Seed
    """Seed of the choices."""
    first: list[dict[str, Any]] = Field(default=[])
    """Values that the first jobs have, by key, one dictionary a job; other keys are drawn."""

    @cross_check(mode="after")
    def _sampler_takes_the_objectives(self) -> Self:
        if self.sampler == "cmaes" and self.objectives and len(self.objectives) > 1:
            raise ValueError(
                "sweep=cmaes goes by one metric: leave out all but one of objectives, or take sweep=nsgaii"
            )
        return self


class SweepCommand(Settings):
    """What `train` can be told that is not the run's own."""

    resume: Resume
    """Which run, or sweep, goes on instead of a new one."""
    sweep: Annotated[Grid | Sampled, Field(discriminator="sampler")]
    """How -m chooses the jobs."""
    launcher: Component
    """What starts them."""
    paths: Paths
    """Where things are."""


class TrainCommand(Train, SweepCommand):
    """Everything that `train` can be told."""

    def of_run(self) -> Train:
        """Return the settings of the run alone."""
        return Train.model_construct(**{name: getattr(self, name) for name in Train.model_fields})
