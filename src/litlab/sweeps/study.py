"""Optuna's study of a sweep: which jobs there are, what became of them, and which comes next."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

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
from litlab.runs.run import Record
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
        _mend(folder / JOURNAL)
        directions = [DIRECTIONS[mode] for mode in plan.objectives.values()]
        self.study = optuna.create_study(
            storage=journal(folder), study_name=NAME, directions=directions, load_if_exists=True
        )
        known = len(self.trials())
        for job in plan.jobs[known:]:
            self.study.add_trial(_waiting(job, plan))
        self._interrupted = [trial.number for trial in self.trials() if trial.state == TrialState.RUNNING]

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
        if self._interrupted:
            number = self._interrupted.pop(0)
            trial = optuna.Trial(self.study, self.trials()[number]._trial_id)
        elif len(self.trials()) >= self.plan.planned and not self._waiting():
            return None
        else:
            trial = self.study.ask()
        return trial.number, self._params(trial)

    def tell(self, number: int, record: Record | None, reason: str | None) -> None:
        """Enter how a job has ended, unless it is to go on later.

        Args:
            number: the job's.
            record: what its run.json says; None where it has not come so far.
            reason: why it has not, or None.
        """
        status = record.status if record else "failed"
        if status in ("running", "interrupted"):
            return
        trial = optuna.Trial(self.study, self.trials()[number]._trial_id)
        if status == "done" and record:
            values = [record.measured(name) for name in self.plan.objectives]
            if None not in values:
                self.study.tell(trial, cast("list[float]", values))
                return
            reason = f"{', '.join(self.plan.objectives)}: {values} is no result"
        elif status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        trial.set_user_attr("reason", reason or (record and record.reason) or "unknown")
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
        """Report the monitored metric of the n-th validation, from 0; whether to stop."""
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
