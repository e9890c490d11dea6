"""Jobs in the queue of a Slurm cluster, by submitit."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from litlab.console import say
from litlab.distributed import processes
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import ProcessLost, TrainingError, UserError
from litlab.files import write_text
from litlab.runs.run import Run
from litlab.sweeps.job import FinishedJob, Job, run

try:
    import submitit
    from submitit.core.utils import FailedSubmissionError
    from submitit.helpers import clean_env
    from submitit.slurm.slurm import SlurmJob
except ImportError as error:
    raise UserError(f"launcher=slurm: takes {error.name}; pip install -e '.[slurm]' brings it") from error

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")
"""States that a job does not leave; https://slurm.schedmd.com/job_state_codes.html."""

ID = "slurm_job"
"""File in a job's folder that says which of Slurm's jobs it is."""

STOP_TIMEOUT_S = 90
"""Seconds in which jobs that are cancelled have saved their state; Slurm kills them after its KillWait, often 30."""

ASK_AFTER = 10
"""Seconds between two questions to Slurm's accounting, which many ask: a job that is done says so by a file."""


class Slurm:
    """Several jobs at once on a cluster whose machines share the project's folder and the logs'.

    A job that comes near its time limit saves its state, is put back into the queue, and goes on.

    Args:
        n_jobs: how many are in the queue or at work at once; those that get there together are a job array.
        time: minutes that a job may take at a time.
        warning: seconds before their end at which it saves its state.
        setup: lines of shell that come before each job.
        sbatch: options of sbatch, by their long names; None for those that are not given.
        options: further ones, by their names with `_`.

    Raises:
        UserError: there is no Slurm, or it refuses such jobs.
    """

    def __init__(
        self, n_jobs: int, time: int, warning: int, setup: list[str], sbatch: dict[str, Any] | None, **options: Any
    ) -> None:
        self.n_jobs, self.setup = n_jobs, setup
        named = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
        timing = {"time": time, "signal": f"USR1@{warning}", "requeue": True}
        self.sbatch = named | timing | (sbatch or {})
        self._refuse_what_slurm_refuses()

    def run(self, jobs: Iterator[Job]) -> Iterator[FinishedJob]:
        """See Launcher; a job that is in the queue already, or at work, is left to be so."""
        running: list[tuple[SlurmJob[FinishedJob | None], Job]] = []
        try:
            while True:
                new = []
                for job in islice(jobs, self.n_jobs - len(running)):
                    if known := _in_slurm(job):
                        running.append((known, job))
                    else:
                        new.append(job)
                running += self._submit(new)
                if not running:
                    return
                for one in _wait(running):
                    running.remove(one)
                    yield _ended(*one)
        finally:
            _cancel([job for job, _ in running])

    def _submit(self, jobs: Sequence[Job]) -> list[tuple["SlurmJob[FinishedJob | None]", Job]]:
        if not jobs:
            return []
        with _outside_of_jobs():
            executor = submitit.SlurmExecutor(jobs[0].home / "slurm")
            executor.update_parameters(job_name="litlab", setup=self.setup, additional_parameters=self.sbatch)
            try:
                submitted: Sequence[Any] = executor.map_array(_work, jobs, [sys.argv] * len(jobs))
            except (FailedSubmissionError, subprocess.SubprocessError) as error:
                raise UserError(f"launcher=slurm: {_said(error)}") from error
        for job, slurms in zip(jobs, submitted, strict=True):
            write_text(job.folder / ID, slurms.job_id)
        say(f"Slurm's job {submitted[0].job_id.partition('_')[0]}: {len(jobs)} in its queue")
        return list(zip(submitted, jobs, strict=True))

    def _refuse_what_slurm_refuses(self) -> None:
        flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in self.sbatch.items()]
        try:
            with _outside_of_jobs():
                subprocess.run(["sbatch", "--test-only", *flags, "--wrap=true"], check=True, capture_output=True)
            subprocess.run(["sacct", "--noheader", "--jobs=1"], check=True, capture_output=True)
        except FileNotFoundError as error:
            raise UserError(f"launcher=slurm: there is no {error.filename}; is this a Slurm cluster?") from error
        except subprocess.CalledProcessError as error:
            raise UserError(f"launcher=slurm: {_said(error)}") from error


def _work(job: Job, argv: list[str]) -> FinishedJob | None:
    """Do a job in the process that Slurm has started, or train along with the first of several."""
    sys.argv = argv
    with stop.listening():
        try:
            if processes.given().rank > 0:
                _follow()
                return None
            return run(job)
        except Interrupted as request:
            if str(request) == "SIGUSR1" and processes.given().rank == 0 and (reason := _put_back(job)):
                return FinishedJob(job, reason)
            sys.exit(request.exit_code)


def _follow() -> None:
    from litlab.distributed.group import run_given_worker
    from litlab.training.train import run_worker

    try:
        run_given_worker(run_worker)
    except (UserError, TrainingError, ProcessLost):
        sys.exit(1)  # the first one tells


def _put_back(job: Job) -> str | None:
    """Put this process's job back into the queue; where it does not get on, say so instead."""
    begun = (job.folder / "run.json").exists()
    starts = [one.step for one in Run.open(job.folder).record.resumed[-2:]] if begun else []
    if (len(starts) == 2 and starts[0] == starts[1]) or (not begun and "SLURM_RESTART_COUNT" in os.environ):
        reason = "launcher.time is too short for it: it has not done a step in its whole time"
        if begun:
            Run.open(job.folder).end("interrupted", reason)
        return reason
    subprocess.run(["scontrol", "requeue", submitit.JobEnvironment().job_id], check=True)
    return None


def _in_slurm(job: Job) -> "SlurmJob[FinishedJob | None] | None":
    """The job as one that was in Slurm's hands when its sweep was killed, and still is."""
    if not (job.folder / ID).exists():
        return None
    known = (job.folder / ID).read_text()
    return SlurmJob(job.home / "slurm", known) if _is_queued(known) else None


def _is_queued(job_id: str) -> bool:
    """Whether a job waits, is at work, or still ends."""
    queue = subprocess.run(["squeue", "--noheader", f"--jobs={job_id}"], capture_output=True)
    return queue.returncode == 0 and bool(queue.stdout.strip())


def _wait(
    running: Sequence[tuple["SlurmJob[FinishedJob | None]", Job]],
) -> list[tuple["SlurmJob[FinishedJob | None]", Job]]:
    """Wait until a job has ended; return all that have."""
    asked = time.monotonic()
    while True:
        if time.monotonic() - asked > ASK_AFTER:
            running[0][0].watcher.update()  # of all jobs
            asked = time.monotonic()
        if ended := [one for one in running if _has_ended(one[0])]:
            return ended
        time.sleep(1)


def _has_ended(job: "SlurmJob[FinishedJob | None]") -> bool:
    if job.paths.result_pickle.exists():
        return True
    return job.watcher.get_state(job.job_id, mode="cache").startswith(ENDED) and not _is_queued(job.job_id)


def _ended(slurms: "SlurmJob[FinishedJob | None]", job: Job) -> FinishedJob:
    if not slurms.paths.result_pickle.exists():
        return FinishedJob(
            job, f"Slurm's job {slurms.job_id} is {slurms.state}, see {slurms.paths.stderr}", killed=True
        )
    if slurms.exception() is not None:
        return FinishedJob(job, f"Slurm's job {slurms.job_id} could not begin, see {slurms.paths.stderr}")
    return slurms.result() or FinishedJob(job)


def _cancel(jobs: Sequence["SlurmJob[FinishedJob | None]"]) -> None:
    """Let them save their state and end."""
    for job in jobs:
        job.cancel(check=False)
    until = time.monotonic() + STOP_TIMEOUT_S
    while any(_is_queued(job.job_id) for job in jobs) and time.monotonic() < until:
        time.sleep(1)


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Keep what Slurm sets in a job, if this is in one, from counting for new ones."""
    kept = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    with clean_env():
        os.environ |= kept
        yield


def _said(error: Exception) -> str:
    """What Slurm has said."""
    text = getattr(error, "stderr", None) or str(error)
    lines = (text.decode() if isinstance(text, bytes) else text).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
