"""Optuna's study of a sweep: which jobs there are, what became of them, and which comes next."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from filelock import FileLock
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from litlab import schema
from litlab.errors import UserError
from litlab.refusals import first_lines
from litlab.sweeps.outcome import Outcome
from litlab.sweeps.plan import Plan
from litlab.sweeps.space import Params

optuna.logging.set_verbosity(optuna.logging.WARNING)

JOURNAL = "study.journal"
NAME = "sweep"

DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}

PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": NopPruner,
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
}


class Lock(BaseJournalFileLock):
    """The operating system's, which lets go of it when a process is killed; Optuna's own stays until it is stale."""

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(file)

    def acquire(self) -> bool:
        """Wait for it."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Let go of it."""
        self._lock.release()


def journal(folder: Path) -> JournalStorage:
    """The sweep's ledger, for any number of processes."""
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), Lock(folder / f".{JOURNAL}.lock")))


class Study:
    """The trials of a sweep; a trial's number is its job's, and its folder's name.

    A job that was interrupted stays a running trial, which is gone on with before others are begun. What a trial is
    given depends on its number and on the trials before it alone: a sweep that goes on draws what it would have.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        directions = [DIRECTIONS[mode] for mode in plan.objectives.values()]
        try:
            _mend(folder / JOURNAL)
            self.study = optuna.create_study(
                storage=journal(folder), study_name=NAME, directions=directions, load_if_exists=True
            )
            known = len(self.trials())
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            hint = "remove it, and what the jobs' folders say is entered again"
            raise UserError(f"{folder / JOURNAL} is damaged: {first_lines(error)}; {hint}") from error
        for job in plan.jobs[known:]:
            self.study.add_trial(_waiting(job, plan))
        self._unfinished = [trial.number for trial in self.trials() if self._is_unfinished(trial)]

    def _is_unfinished(self, trial: FrozenTrial) -> bool:
        """Whether the job was begun, and its folder does not hold what it was to leave there."""
        is_gone = trial.state.is_finished() and not (self.folder / str(trial.number) / "run.json").exists()
        return trial.state == TrialState.RUNNING or is_gone

    def trials(self) -> list[FrozenTrial]:
        """All trials, in order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def _waiting(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))

    def ended(self) -> list[FrozenTrial]:
        """The trials whose jobs are not to go on."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def best(self) -> list[FrozenTrial]:
        """The trial with the best value; of several objectives, those than which no other is better in all."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done or len(self.plan.objectives) > 1:
            return self.study.best_trials
        return [self.study.best_trial]

    def next(self) -> tuple[int, Params] | None:
        """The job to start now; None when all were started."""
        if self._unfinished:
            number = self._unfinished.pop(0)
            trial = optuna.Trial(self.study, self.trials()[number]._trial_id)
        elif len(self.trials()) >= self.plan.planned and not self._waiting():
            return None
        else:
            trial = self.study.ask()
        return trial.number, self._params(trial)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Enter how a job has ended, unless it is to go on later."""
        trial = optuna.Trial(self.study, self.trials()[number]._trial_id)
        if outcome.status in ("running", "interrupted", "missing") or self.trials()[number].state.is_finished():
            return
        if outcome.status == "done":
            self.study.tell(trial, [outcome.values[name] for name in self.plan.objectives])
        elif outcome.status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("reason", outcome.reason)
            self.study.tell(trial, state=TrialState.FAIL)

    def _params(self, trial: optuna.Trial) -> Params:
        params = {}
        for index, dimension in enumerate(self.plan.dimensions):
            if isinstance(self.plan.sampling, schema.Sampled):
                self.study.sampler = _sampler(self.plan.sampling, (trial.number, index))
            params[dimension.key] = dimension.suggest(trial)
        return params


class Pruner:
    """Tells a job, in whichever process, whether to stop because others do better."""

    def __init__(self, folder: Path, number: int, pruner: str) -> None:
        study = optuna.load_study(study_name=NAME, storage=journal(folder), pruner=PRUNERS[pruner]())
        trial = study.get_trials(deepcopy=False)[number]
        self._trial = optuna.Trial(study, trial._trial_id)
        self._reported = set(trial.intermediate_values)

    def __call__(self, validation: int, value: float) -> bool:
        """Report the objective at the n-th validation, from 0; whether to stop."""
        if validation not in self._reported:  # by a process that was killed before it had saved that
            self._trial.report(value, validation)
        return self._trial.should_prune()


def _waiting(job: Params, plan: Plan) -> FrozenTrial:
    distributions = {dimension.key: dimension.distribution() for dimension in plan.dimensions}
    return create_trial(state=TrialState.WAITING, params=dict(job), distributions=distributions)


def _sampler(settings: schema.Sampled, place: tuple[int, int]) -> BaseSampler:
    """A sampler whose draws depend on the seed and the place, a trial and its parameter, and not on draws before."""
    seed = int(np.random.SeedSequence((settings.seed, *place)).generate_state(1)[0])
    return TPESampler(multivariate=False, seed=seed) if settings.sampler == "tpe" else RandomSampler(seed)


def _mend(file: Path) -> None:
    """Take away a last line that a killed process has not written to its end."""
    if not file.exists():
        return
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(file, whole)
