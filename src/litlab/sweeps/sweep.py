"""A multirun from its command line to its table: plan, run what is missing, compare."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from litlab import schema
from litlab.components import build
from litlab.config import check
from litlab.errors import UserError
from litlab.interruption import Interrupted, stop
from litlab.resume import refuse_traps
from litlab.runs.files import write_text
from litlab.runs.run import Record, Run, resume_command
from litlab.sweeps.job import Job
from litlab.sweeps.launchers import Launcher
from litlab.sweeps.plan import FILE, Plan
from litlab.sweeps.space import Params, texts
from litlab.sweeps.study import Study
from litlab.sweeps.summary import conclude, record_of, story

PATIENCE = 60
"""Seconds in which the jobs of a sweep that was killed have saved their state and ended."""


def sweep(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Run the jobs that the command line's overrides ask for, or go on with a sweep that was stopped.

    Args:
        config: Hydra's, composed without the values that vary.
        loader: what composes the jobs'.
        arguments: the overrides.

    Raises:
        UserError: a job's config is wrong, or the sweep itself; no folder was made.
        TrainingError: jobs have failed; the others are done.
        Interrupted: a signal asked to stop.
    """
    settings = check(OmegaConf.masked_copy(config, list(schema.SweepCommand.model_fields)), schema.SweepCommand)
    if settings.resume.run is not None:
        folder = _folder_to_resume(settings)
        plan = _plan_to_resume(folder, settings, loader, arguments)
    else:
        folder, plan = None, Plan.make(settings, loader, arguments)
    if settings.sweep.dry_run:
        print(plan.listing())
        return
    folder = folder or _new_folder(config)
    with _claimed(folder), _stopping_with_a_hint(folder):
        plan.save(folder)
        study = Study(folder, plan)
        _run(folder, plan, study, build(settings.launcher), settings.sweep.on_error)
        conclude(folder, plan, study)


def _new_folder(config: DictConfig) -> Path:
    try:
        folder = Path(config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be used: {error.strerror}") from error
    if (folder / FILE).exists():
        raise UserError(f"{folder} holds a sweep already: choose another folder, or go on with it by resume={folder}")
    return folder


def _folder_to_resume(settings: schema.SweepCommand) -> Path:
    asked = settings.resume.run
    sweeps = sorted(Path(settings.paths.logs).glob(f"train/multiruns/*/{FILE}"))
    if asked == "last" and not sweeps:
        raise UserError(f"resume=last: there is no sweep in {settings.paths.logs}/train/multiruns")
    folder = sweeps[-1].parent if asked == "last" else Path(str(asked)).expanduser().absolute()
    if not (folder / FILE).is_file():
        raise UserError(f"resume={asked}: no sweep's folder, it holds no {FILE}")
    refuse_traps(folder, f"resume={asked}")
    return folder


def _plan_to_resume(
    folder: Path, settings: schema.SweepCommand, loader: ConfigLoader, arguments: Sequence[str]
) -> Plan:
    """The sweep's own plan; the command line may repeat it, and ask for more trials."""
    plan = Plan.load(folder)
    if all(re.match(r"(resume|launcher|paths)[.=]|sweep\.on_error=", text) for text in arguments):
        return plan
    wanted = Plan.make(settings, loader, arguments)
    if wanted.definition() != plan.definition() or wanted.planned < plan.planned:
        hint = "leave out all but resume, launcher and sweep.on_error; only sweep.n_trials may be raised"
        raise UserError(f"resume={folder}: was planned with other settings than these: {hint}")
    return wanted


@contextmanager
def _stopping_with_a_hint(folder: Path) -> Iterator[None]:
    """What ends the sweep early is told with the way to go on."""
    command = resume_command(folder, multirun=True)
    try:
        yield
    except Interrupted:
        print(f"the sweep goes on with: {command}")
        raise
    except OSError as error:
        where = f"{error.filename or folder} cannot be written: {error.strerror}"
        raise UserError(f"{where}; what is done is kept, go on with: {command}") from error


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from going on with the same sweep."""
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise UserError(f"{folder} is in use: another process is at work on this sweep") from error


def _run(folder: Path, plan: Plan, study: Study, launcher: Launcher, on_error: str) -> None:
    """Hand the jobs to the launcher, and enter how each has ended."""
    failed: list[int] = []

    def jobs() -> Iterator[Job]:
        while not (failed and on_error == "stop"):
            with stop.held_back():
                following = study.next()
                if following is None:
                    return
                job = _prepare(folder, plan, *following)
            if (record := record_of(job.folder)) and record.status not in ("running", "interrupted"):
                study.tell(job.number, record, None)  # the sweep was killed before it could
                continue
            print(f"job {job.number}: {' '.join(texts(following[1]))}")
            yield job

    with closing(launcher.run(jobs())) as jobs_ended:  # type: ignore[type-var]
        for job, error in jobs_ended:
            with stop.held_back():
                record = _settle(job, error)
                study.tell(job.number, record, error)
            if record is None or record.status == "failed":
                failed.append(job.number)
            print(f"job {job.number}: {story(record, error, plan)} ({len(study.ended())} of {plan.planned})")


def _prepare(folder: Path, plan: Plan, number: int, params: Params) -> Job:
    """Put the job's config into its folder, unless it is there."""
    job = Job(folder, number, plan.sampling.pruner)
    if not (job.folder / "config.yaml").exists():
        config = OmegaConf.to_yaml(plan.config(params))
        job.folder.mkdir(exist_ok=True)
        write_text(job.folder / "config.yaml", config)
    elif (job.folder / "run.json").exists():
        _wait_for(job)
    return job


def _wait_for(job: Job) -> None:
    """Let a job that is still at work save its state, its sweep having been killed."""
    run, until = Run.open(job.folder), time.monotonic() + PATIENCE
    while run.is_alive():
        if time.monotonic() > until:
            raise UserError(f"{job.folder} is in use: another process is at work on this run")
        time.sleep(0.1)


def _settle(job: Job, error: str | None) -> Record | None:
    """What the job's record says; if its process was killed, that it goes on when the sweep does."""
    if not (job.folder / "run.json").exists():
        return None
    run = Run.open(job.folder)
    if run.record.status == "running":
        run.end("interrupted", error)
    return run.record
