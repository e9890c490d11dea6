"""Optuna's study of a sweep: which jobs there are, what became of them, and which comes next."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from litlab.config import command_schema
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.runs.record import Record
from litlab.sweeps.outcome import TO_DO, JobResult, outcome, record_of, trial_result
from litlab.sweeps.plan import Plan
from litlab.sweeps.pruner import report_key
from litlab.sweeps.space import Params, value_of
from litlab.sweeps.storage import NAME, StudyStorage, trial_of

DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}


SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "random": RandomSampler,
    "tpe": partial(TPESampler, multivariate=False),
    "cmaes": partial(CmaEsSampler, warn_independent_sampling=False),
    "gp": GPSampler,
    "nsgaii": NSGAIISampler,
}

UNFINISHED = (*TO_DO, "damaged")
"""Statuses that do not say how a job has ended."""

INDEPENDENT = ("random", "tpe")
"""Samplers that draw each parameter by itself; the others draw all parameters of a trial together."""


class Study:
    """The trials of a sweep, and their jobs; a job's number is its folder's name.

    A trial is one job, which has its number, or as many jobs as the plan has replicates, one after the other.
    A job that was interrupted stays a running trial, which is gone on with before others are begun. What a trial is
    given depends on its number and on the trials before it alone: a sweep that goes on draws what it would have.

    Attributes:
        ended: the numbers of the jobs that are not to go on.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        url = plan.sampling.storage
        self.storage = StudyStorage(folder, url, NAME if url is None else plan.study)
        directions = [DIRECTIONS[mode] for mode in plan.objectives.values()]
        self.study = self.storage.create(directions)
        in_grid = isinstance(plan.sampling, command_schema.Grid)
        self._distributions = {one.key: one.scale() if in_grid else one.distribution() for one in plan.dimensions}
        self._first = plan.first_jobs()
        trials = self.trials()
        if self.study.directions != directions:
            raise self.storage.damaged("it has other objectives")
        if len(trials) > plan.planned:
            raise self.storage.damaged(f"it has {len(trials)} jobs, the sweep {plan.planned}")
        for trial in trials:
            if not (self._is_whole(trial) and self._is_planned(trial)):
                raise self.storage.damaged(f"job {trial.number} has other values than the sweep gives it")
        self._begun = len(trials)
        self._unfinished = [number for trial in trials for number in self._unfinished_jobs(trial)]
        self._told = {trial.number for trial in trials if trial.state.is_finished()}
        self.ended = {job for number in self._told for job in self._jobs(number)} - set(self._unfinished)

    def _jobs(self, trial: int) -> range:
        """The numbers of a trial's jobs."""
        size = len(self.plan.replicates)
        return range(trial * size, (trial + 1) * size)

    def _is_whole(self, trial: FrozenTrial) -> bool:
        """Whether a trial has what Optuna's tools look for, which they do not check as they read it."""
        values = trial.values or []
        has_values = len(values) == len(self.plan.objectives) and all(
            isinstance(value, float | int) for value in values
        )
        return isinstance(trial.system_attrs, dict) and (has_values or trial.state != TrialState.COMPLETE)

    def _is_planned(self, trial: FrozenTrial) -> bool:
        """Whether a trial's parameters are such as the plan gives it; one that was not drawn to its end has fewer."""
        if isinstance(self.plan.sampling, command_schema.Grid):
            job = self.plan.jobs[trial.number]
            return trial.params == {key: value_of(job[key], one) for key, one in self._distributions.items()}
        return trial.distributions.items() <= self._distributions.items()

    def _unfinished_jobs(self, trial: FrozenTrial) -> list[int]:
        """The jobs of a trial that was begun, whose folders do not hold what they were to leave there, or no longer."""
        jobs = self._jobs(trial.number)
        found = [outcome(self.folder / str(number), ()) for number in jobs]
        if len(jobs) > 1 and trial_result(found).status == "pruned":
            return []
        is_running = trial.state == TrialState.RUNNING
        return [number for number, job in zip(jobs, found, strict=True) if is_running or job.status in TO_DO]

    def trials(self) -> list[FrozenTrial]:
        """All trials, in order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def params(self, number: int) -> Params:
        """What a trial was given."""
        if isinstance(self.plan.sampling, command_schema.Grid):
            return self.plan.jobs[number]
        drawn = self.trials()[number].params
        return {key: value if isinstance(value, str) else repr(value) for key, value in drawn.items()}

    def next(self) -> tuple[int, Params] | None:
        """The number and the values of the job to start now; None when all were started.

        Raises:
            UserError: in the job's folder is another sweep's.
        """
        size = len(self.plan.replicates)
        if self._unfinished:
            job = self._unfinished.pop(0)
            trial = self._opened(job // size, partial(trial_of, self.study))
        elif self._begun < self.plan.planned:
            trial = self._opened(self._begun, self._begin)
            self._begun += 1
            job, *self._unfinished = self._jobs(trial.number)
        else:
            return None
        return job, self._params(trial) | self.plan.replicates[job % size]

    def _opened(self, number: int, open_trial: Callable[[int], optuna.Trial]) -> optuna.Trial:
        if isinstance(self.plan.sampling, command_schema.Sampled):
            self.study.sampler = _sampler(self.plan.sampling, (number,))
        return open_trial(number)

    def _begin(self, number: int) -> optuna.Trial:
        """A new trial, with all that is known of its job.

        Study.ask would look through all trials first, for one that waits: there is none.
        """
        trial_id = self.study._storage.create_new_trial(self.study._study_id, template_trial=self._known(number))
        return optuna.Trial(self.study, trial_id)

    def _known(self, number: int) -> FrozenTrial | None:
        """A trial as its place in the grid and its folders have it; None where its values are still to be drawn."""
        folders = [self.folder / str(job) for job in self._jobs(number)]
        records = [record_of(folder) for folder in folders]  # there are some if the study was lost, or has moved
        known_to_job = next(filter(None, records), None)
        if isinstance(self.plan.sampling, command_schema.Grid):
            job = self.plan.jobs[number]
        elif known_to_job and known_to_job.overrides.keys() >= self._distributions.keys():
            job = known_to_job.overrides
        elif number < len(self._first):
            job = self._first[number]
        else:
            return None
        known = {key: one for key, one in self._distributions.items() if key in job}
        reported = self._reported(records)
        try:
            return create_trial(
                state=TrialState.RUNNING,
                params={key: value_of(job[key], one) for key, one in known.items()},
                distributions=known,
                intermediate_values={index: fmean(by_job.values()) for index, by_job in reported.items()},
                user_attrs={
                    report_key(index, job): value
                    for index, by_job in reported.items()
                    for job, value in by_job.items()
                    if len(folders) > 1
                },
            )
        except ValueError as error:
            hint = "remove it, and the job is done again"
            raise UserError(f"{folders[0]} is of another sweep: {first_lines(error)}; {hint}") from error

    def _reported(self, records: Sequence[Record | None]) -> dict[int, dict[int, float]]:
        """What a trial's jobs have told their pruner: by the number of the validation, and the job's place."""
        metric, reported = next(iter(self.plan.objectives)), defaultdict[int, dict[int, float]](dict)
        for place, record in enumerate(records):
            for index, validation in enumerate(record.metrics.validations if record else ()):
                if metric in validation.metrics and self.plan.sampling.pruner != "none":
                    reported[index][place] = validation.metrics[metric]
        return reported

    def _params(self, trial: optuna.Trial) -> Params:
        sampling = self.plan.sampling
        if isinstance(sampling, command_schema.Grid):
            return self.plan.jobs[trial.number]
        params = {}
        for index, dimension in enumerate(self.plan.dimensions):
            if sampling.sampler in INDEPENDENT:
                self.study.sampler = _sampler(sampling, (trial.number, index))
            params[dimension.key] = dimension.suggest(trial)
        return params

    def tell(self, number: int, ended: JobResult) -> None:
        """Enter how a job has ended, unless it is to go on later, and how its trial has with its last job."""
        if ended.status in UNFINISHED or number in self.ended:
            return
        self.ended.add(number)
        trial = number // len(self.plan.replicates)
        if trial in self._told:
            return
        jobs = self._jobs(trial)
        others = (outcome(self.folder / str(job), self.plan.objectives) for job in jobs if job != number)
        result = trial_result([ended, *others])
        if result.status in UNFINISHED:
            return
        self._told.add(trial)
        if result.status == "done":
            self.study.tell(trial, [result.values[name] for name in self.plan.objectives])
        elif result.status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
            self.ended.update(jobs)
            self._unfinished = [job for job in self._unfinished if job not in jobs]
        else:
            trial_of(self.study, trial).set_user_attr("reason", result.reason)
            self.study.tell(trial, state=TrialState.FAIL)


def require_sampler(settings: command_schema.Grid | command_schema.Sampled) -> None:
    """Make sure that the package is there that a sampler needs.

    Raises:
        UserError: it is not.
    """
    if settings.sampler == "cmaes" and find_spec("cmaes") is None:
        raise UserError("sweep=cmaes: takes the package cmaes; pip install -e '.[cmaes]' brings it")


def _sampler(settings: command_schema.Sampled, place: Sequence[int]) -> BaseSampler:
    """A sampler whose draws depend on the seed and the place, a trial and its parameter, and not on draws before."""
    seed = int(np.random.SeedSequence((settings.seed, *place)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[settings.sampler](seed=seed)
