"""One job of a sweep: a run of its own, in the folder with its number."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litlab.config import schema
from litlab.config.compose import check, load, parse
from litlab.errors import ProcessLost, Pruned, StorageError, TrainingError, UserError
from litlab.job_log import log_into
from litlab.runs.run import Run
from litlab.runs.storage_faults import storage_may_fail
from litlab.sweeps.space import Params

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from litlab.sweeps.storage import StudyStorage


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruning:
    """How a job gets to know that others do better."""

    storage: "StudyStorage"
    """Where the study is."""
    rule: str
    """Optuna's name of it."""
    metric: str
    """What it goes by."""
    jobs: int = 1
    """How many jobs are judged together."""


@dataclass(frozen=True)
class Job:
    """What any process needs to know to do a job."""

    folder: Path
    """The run's, which has its config in it."""
    number: int
    params: Params
    """What this job alone has."""
    pruning: Pruning | None = None
    """None where it is done to its end."""
    sweep: Path | None = None
    """The sweep's folder; None for a run of its own."""
    changed: str | None = None
    """config.yaml of a run that goes on with other settings."""
    objectives: tuple[str, ...] = ()
    """The metrics that the sweep compares its jobs by."""

    @property
    def home(self) -> Path:
        """Where a launcher leaves what it needs itself."""
        return self.sweep or self.folder


@dataclass(frozen=True)
class FinishedJob:
    """A job that is no longer at work."""

    job: Job
    error: str | None = None
    """What went wrong."""
    killed: bool = False
    """Whether it was a signal that nothing could be done about; then it can go on."""
    storage_failed: bool = False
    """Whether it was a disk or a file system; then it can go on, and no other job would do better."""


def run(job: Job) -> FinishedJob:
    """Train as the folder's config says, or go on with it; what was wrong is also in the job's log.

    Raises:
        Interrupted: a signal asked to stop.
    """
    try:
        with storage_may_fail(job.folder):
            _train(job)
    except Pruned as reason:
        log.info("pruned: %s", reason)
    except StorageError as error:
        log.error("%s", error)  # noqa: TRY400 (it says all)
        return FinishedJob(job, error.problem, storage_failed=True)
    except (UserError, TrainingError, ProcessLost) as error:
        log.error("%s", error)  # noqa: TRY400 (likewise)
        return FinishedJob(job, str(error))
    except Exception as error:
        log.exception("the job has failed")
        return FinishedJob(job, f"{type(error).__name__}: {error}")
    return FinishedJob(job)


def _train(job: Job) -> None:
    log_into(job.folder)
    changed = job.changed and check(parse(job.changed, "config.yaml"), schema.Train)
    settings = changed or load(job.folder / "config.yaml", schema.Train)
    from litlab.training.train import train

    if (job.folder / "run.json").exists():
        run = Run.reopen(job.folder, job.params, job.changed)
    else:
        run = Run.create(job.folder, settings.seed, job.params)
    train(settings, run, callbacks=_callbacks(job, settings))


def _callbacks(job: Job, settings: schema.Train) -> list["Callback"]:
    """Return what a job of a sweep has besides what every run has."""
    if job.sweep is None:
        return []
    from litlab.callbacks.pruning import Pruning as PruningCallback
    from litlab.callbacks.required import RequiredMetrics
    from litlab.sweeps.pruner import Pruner

    callbacks: list[Callback] = [RequiredMetrics.of_sweep(settings, job.objectives)]
    if job.pruning:
        should_prune = Pruner(job.pruning.storage.load(job.pruning.rule), job.number, job.pruning.jobs)
        callbacks.append(PruningCallback(job.pruning.metric, should_prune))
    return callbacks
