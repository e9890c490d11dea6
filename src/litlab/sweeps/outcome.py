"""What has become of a job."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from litlab.errors import UserError
from litlab.runs.record import Record, Status
from litlab.runs.run import Run
from litlab.sweeps.job import FinishedJob

TO_DO = ("missing", "running", "interrupted")
"""Statuses of jobs that a sweep still has to do."""


@dataclass(frozen=True)
class JobResult:
    """How a job has ended, or how far it has come."""

    status: Status | Literal["missing", "damaged"]
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    """Of those objectives that were measured."""

    def __str__(self) -> str:
        values = [f"{name} {value:.4g}" for name, value in self.values.items()]
        return ", ".join([f"{self.status}: {self.reason}" if self.reason else self.status, *values])


def outcome(folder: Path, objectives: Collection[str]) -> JobResult:
    """What the record in a job's folder says; it is also a failure to be done without having measured an objective."""
    if not (folder / "run.json").exists():
        return JobResult("missing")
    try:
        record = Run.open(folder).record
    except UserError as error:
        return JobResult("damaged", f"{error}; remove {folder}, and the job is done again")
    measured = {name: record.measured(name) for name in objectives}
    values = {name: value for name, value in measured.items() if value is not None}
    if record.status == "done" and len(values) < len(measured):
        lacking = ", ".join(measured.keys() - values.keys())
        return JobResult("failed", f"it has no number for {lacking}; there is {', '.join(sorted(record.results()))}")
    return JobResult(record.status, record.reason or "", values if record.status == "done" else {})


def settled_result(ended: FinishedJob, objectives: Collection[str]) -> JobResult:
    """What has become of a job that is no longer at work; one whose process or storage failed can go on."""
    can_go_on = ended.killed or ended.storage_failed
    found = outcome(ended.job.folder, objectives)
    if found.status == "missing":
        return JobResult("interrupted" if can_go_on else "failed", ended.error or "")
    if found.status == "running":
        try:
            Run.open(ended.job.folder).end("interrupted", ended.error)
        except OSError:
            if not ended.storage_failed:
                raise
            return JobResult("interrupted", ended.error or "")  # the record says so once the job goes on
    return outcome(ended.job.folder, objectives)


def trial_result(jobs: Sequence[JobResult]) -> JobResult:
    """Return how the trial of these jobs has ended: once all are done, with the mean of their values.

    It is pruned, or has failed, as soon as one of them is or has; until then it goes on.
    """
    for status in ("pruned", "failed"):
        if ended := next((job for job in jobs if job.status == status), None):
            return ended
    if unfinished := next((job for job in jobs if job.status != "done"), None):
        return unfinished if len(jobs) == 1 else JobResult("running")
    return JobResult("done", values={name: fmean(job.values[name] for job in jobs) for name in jobs[0].values})


def by_trial(jobs: Sequence[JobResult], size: int) -> list[Sequence[JobResult]]:
    """Group the jobs by trial; the jobs that a pruned trial has not done count as pruned."""
    trials = [jobs[first : first + size] for first in range(0, len(jobs), size)]

    def settled(job: JobResult) -> JobResult:
        return JobResult("pruned", "with another job of its trial") if job.status in TO_DO else job

    return [[*map(settled, jobs)] if trial_result(jobs).status == "pruned" else jobs for jobs in trials]


def record_of(folder: Path) -> Record | None:
    """What a job's run.json says; None where there is none that can be read."""
    try:
        return Run.open(folder).record if (folder / "run.json").exists() else None
    except UserError:
        return None


def best_jobs(jobs: Sequence[JobResult], objectives: Mapping[str, Literal["min", "max"]]) -> list[int]:
    """Return the number of the job, or trial, with the best value; of several objectives, the Pareto front."""
    done = {
        number: [job.values[name] * (1 if mode == "min" else -1) for name, mode in objectives.items()]
        for number, job in enumerate(jobs)
        if job.status == "done"
    }

    def is_beaten(values: list[float]) -> bool:
        return any(
            others != values and all(other <= own for other, own in zip(others, values, strict=True))
            for others in done.values()
        )

    best = [number for number, values in done.items() if not is_beaten(values)]
    return best if len(objectives) > 1 else best[:1]
