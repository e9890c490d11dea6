"""A multirun from its command line to its table: plan, run what is missing, compare."""

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from litlab.config import command_schema
from litlab.config.components import build
from litlab.config.compose import check, config_text
from litlab.config.marks import require_mine
from litlab.config.types import NAME, seconds_of
from litlab.console import print_document, require_written, say
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import ProcessLost, StorageError, UserError
from litlab.files import TIME, write_text
from litlab.runs.last import ELSEWHERE, Last, announce, folders_with, newest, remember, require_newest
from litlab.runs.links import break_links, refuse_traps
from litlab.runs.lock import FolderLock
from litlab.runs.run import refuse_taken, resume_command
from litlab.runs.storage_faults import storage_fault, storage_problem
from litlab.sweeps.job import Job, Pruning
from litlab.sweeps.launchers.base import Launcher
from litlab.sweeps.outcome import TO_DO, JobResult, by_trial, outcome, record_of, settled_result
from litlab.sweeps.plan import CHANGEABLE, FILE, Plan
from litlab.sweeps.space import Params, texts
from litlab.sweeps.storage import StudyStorage, answering, probe
from litlab.sweeps.study import Study, require_sampler
from litlab.sweeps.summary import conclude


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
    settings = check(
        OmegaConf.masked_copy(config, list(command_schema.SweepCommand.model_fields)), command_schema.SweepCommand
    )
    if settings.resume.run is not None:
        last = _to_resume(settings)
        folder, plan = last.folder, _plan_to_resume(last, settings, loader, arguments)
        announce("resume", settings.resume.run, folder)
    else:
        folder, plan = None, Plan.make(settings, loader, arguments)
    if plan.sampling.dry_run:
        print_document(plan.listing())
        require_written()
        return
    require_sampler(plan.sampling)
    launcher: Launcher = build(settings.launcher)
    if plan.sampling.storage is not None:
        probe(plan.sampling.storage)  # what cannot be had is refused before there is a folder
    folder = folder or _new_folder(config, Path(settings.paths.logs))
    with _stopping_with_a_hint(folder), _claimed(folder):
        break_links(folder)
        plan.save(folder)
        study = Study(folder, plan)
        deadline = Deadline(plan.sampling.timeout)
        conclude(folder, plan, study, _run(folder, plan, study, launcher, deadline), deadline.has_passed())


def _new_folder(config: DictConfig, logs: Path) -> Path:
    try:
        folder = Path(config.hydra.sweep.dir).absolute()
        refuse_taken(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be used: {error.strerror}") from error
    if (folder / FILE).exists():
        command = resume_command(folder, multirun=True)
        raise UserError(f"{folder} holds a sweep already: choose another folder, or go on with it: {command}")
    if {path.name for path in folder.iterdir()} - {".lock"}:  # of a sweep that could not be planned
        raise UserError(f"{folder} is not empty: choose another folder")
    remember(folder, logs)
    return folder


def _to_resume(settings: command_schema.SweepCommand) -> Last:
    asked, logs = settings.resume.run, Path(settings.paths.logs)
    is_last = asked == "last"
    last = newest_sweep(logs) if is_last else Last(_sweep_path(str(asked), logs).absolute())
    if not (last.folder / FILE).is_file():
        raise UserError(f"resume={asked}: not a sweep's folder; it holds no {FILE}")
    refuse_traps(last.folder, f"resume={asked}")
    return last


def _sweep_path(asked: str, logs: Path) -> Path:
    """Where the sweep is that was asked for by its path, or by its name, of which the newest counts."""
    path = Path(asked).expanduser()
    if path.exists() or not re.fullmatch(NAME, asked):
        return path
    named = (logs / "train" / "multiruns").glob(f"*_{asked}")
    return max((folder for folder in named if re.fullmatch(rf"{TIME}_{re.escape(asked)}", folder.name)), default=path)


def newest_sweep(logs: Path) -> Last:
    """The sweep that was started last, of those that have jobs left to do and are not at work.

    Raises:
        UserError: there is none.
    """
    folders = folders_with(FILE, logs, ("multiruns/*", f"{ELSEWHERE}/*"))
    in_order = sorted(folders, key=_started, reverse=True)
    return newest(((folder, _state(folder)) for folder in in_order), "unfinished sweep", logs)


def _started(folder: Path) -> float:
    """When the sweep's first job was started, in seconds; before there is one, when the sweep was planned."""
    records = filter(None, map(record_of, _begun(folder)))
    return next((record.started.timestamp() for record in records), (folder / FILE).stat().st_mtime)


def _state(folder: Path) -> str:
    """What speaks against going on with a sweep."""
    if FolderLock(folder).is_held():
        return "is at work"
    try:
        plan = Plan.load(folder)
    except UserError as error:
        return f"cannot go on: {error}"
    jobs = (outcome(folder / str(number), ()) for number in range(plan.n_jobs))
    trials = by_trial(list(jobs), len(plan.replicates))
    return "" if any(job.status in TO_DO for jobs in trials for job in jobs) else "is done"


def _begun(folder: Path) -> list[Path]:
    """The folders of the jobs that have a record, in order."""
    return sorted((file.parent for file in folder.glob("[0-9]*/run.json")), key=lambda job: (len(job.name), job.name))


def _plan_to_resume(
    last: Last, settings: command_schema.SweepCommand, loader: ConfigLoader, arguments: Sequence[str]
) -> Plan:
    """The sweep's own plan; the command line may repeat it, or change what is CHANGEABLE."""
    folder = last.folder
    require_mine(folder / FILE, f"resume={settings.resume.run}")
    plan = Plan.load(folder)
    given = {text.lstrip("+").partition("=")[0] for text in arguments}
    given = {key for key in given if key.partition(".")[0] not in ("resume", "launcher", "paths")}
    told = plan.changed({name: getattr(settings.sweep, name) for name in CHANGEABLE if f"sweep.{name}" in given})
    repeats = not given <= {"sweep", *(f"sweep.{name}" for name in CHANGEABLE)} or settings.sweep.sampler not in (
        plan.sampling.sampler,
        "grid",  # as it is if nothing is said
    )
    is_other = repeats and Plan.make(settings, loader, arguments).definition() != plan.definition()
    if is_other or told.planned < plan.planned:
        hint = "leave out all but resume, launcher and sweep.on_error; sweep=NAME sweep.n_trials=N may ask for more"
        raise UserError(f"resume={folder}: was planned with other settings than these: {hint}")
    if told != plan:
        require_newest(last)
    return told


@contextmanager
def _stopping_with_a_hint(folder: Path) -> Iterator[None]:
    """What ends the sweep early is told with the way to go on."""
    command = resume_command(folder, multirun=True)
    try:
        with answering():
            yield
    except Interrupted:
        say(f"the sweep goes on with: {command}")
        raise
    except ProcessLost as error:
        raise UserError(f"{error}; what is done is kept, go on with: {command}") from error
    except StorageError as error:
        raise UserError(f"{error}; what is done is kept; once that is mended, go on with: {command}") from error
    except OSError as error:
        fault = storage_fault(error, folder)
        if fault is None:
            raise
        problem, when = storage_problem(error, fault, folder)
        on = f"what is done is kept; {when}, go on with: {command}"
        raise UserError(f"{problem}; {on if (folder / FILE).exists() else f'{when}, begin again'}") from error


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from going on with the same sweep."""
    lock = FolderLock(folder)
    if not lock.acquire():
        raise UserError(f"{folder} is in use: another process is at work on this sweep")
    try:
        yield
    finally:
        lock.release()


class Deadline:
    """When no job is begun any more."""

    def __init__(self, timeout: str | None) -> None:
        self._end = time.monotonic() + seconds_of(timeout) if timeout else math.inf

    def has_passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() > self._end


def _run(folder: Path, plan: Plan, study: Study, launcher: Launcher, deadline: Deadline) -> dict[int, JobResult]:
    """Hand the jobs to the launcher, and enter how each has ended; those that have, by number."""
    outcomes: dict[int, JobResult] = {}

    def goes_on() -> bool:
        has_failed = any(one.status == "failed" for one in outcomes.values())
        return not (deadline.has_passed() or (has_failed and plan.sampling.on_error == "stop"))

    def jobs() -> Iterator[Job]:
        while goes_on():
            with stop.held_back():
                following = study.next()
                if following is None:
                    return
                number, params = following
                found = outcome(folder / str(number), plan.objectives)
                if found.status not in TO_DO:
                    study.tell(number, found)  # the sweep was killed before it could
                    continue
                job = _prepare(folder, plan, study.storage, number, params)
            say(f"job {number}: {' '.join(texts(params))}")
            yield job

    with closing(launcher.run(jobs())) as jobs_ended:  # type: ignore[type-var]
        for ended in jobs_ended:
            number = ended.job.number
            with stop.held_back():
                outcomes[number] = settled_result(ended, plan.objectives)
                study.tell(number, outcomes[number])
            say(f"job {number}: {outcomes[number]} ({len(study.ended)} of {plan.n_jobs})")
            if ended.storage_failed:
                raise StorageError(str(ended.error), "no other job was started")
    return outcomes


def _prepare(folder: Path, plan: Plan, storage: StudyStorage, number: int, params: Params) -> Job:
    """Put the job's config into its folder, unless it was begun."""
    pruning = None
    if plan.sampling.pruner != "none":
        pruning = Pruning(storage, plan.sampling.pruner, next(iter(plan.objectives)), len(plan.replicates))
    job = Job(folder / str(number), number, params, pruning, folder, objectives=tuple(plan.objectives))
    if (job.folder / "run.json").exists():
        require_mine(job.folder / "config.yaml", f"job {number}")
    else:
        config = config_text(plan.config(params))
        job.folder.mkdir(exist_ok=True)
        write_text(job.folder / "config.yaml", config)
    return job
