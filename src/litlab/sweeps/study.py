"""Optuna's study of a sweep: which jobs there are, what became of them, and which comes next."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

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
from litlab.sweeps.outcome import JobResult, outcome, record_of
from litlab.sweeps.plan import Plan
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

INDEPENDENT = ("random", "tpe")
"""Samplers that draw each parameter by itself; the others draw all parameters of a trial together."""


class Study:
    """The trials of a sweep; a trial's number is its job's, and its folder's name.

    A job that was interrupted stays a running trial, which is gone on with before others are begun. What a trial is
    given depends on its number and on the trials before it alone: a sweep that goes on draws what it would have.

    Attributes:
        ended: the numbers of the trials whose jobs are not to go on.
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
        self.ended = {trial.number for trial in trials if trial.state.is_finished()}
        self._begun = len(trials)
        self._unfinished = [trial.number for trial in trials if self._is_unfinished(trial)]

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

    def _is_unfinished(self, trial: FrozenTrial) -> bool:
        """Whether the job was begun, and its folder does not hold what it was to leave there, or no longer."""
        found = outcome(self.folder / str(trial.number), ())
        return trial.state == TrialState.RUNNING or found.status in ("missing", "running", "interrupted")

    def trials(self) -> list[FrozenTrial]:
        """All trials, in order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def params(self, number: int) -> Params:
        """What the job of a trial was given."""
        if isinstance(self.plan.sampling, command_schema.Grid):
            return self.plan.jobs[number]
        drawn = self.trials()[number].params
        return {key: value if isinstance(value, str) else repr(value) for key, value in drawn.items()}

    def next(self) -> tuple[int, Params] | None:
        """The job to start now; None when all were started.

        Raises:
            UserError: in the job's folder is another sweep's.
        """
        open_trial: Callable[[int], optuna.Trial]
        if self._unfinished:
            number, open_trial = self._unfinished.pop(0), partial(trial_of, self.study)
        elif self._begun < self.plan.planned:
            number, open_trial = self._begun, self._begin
            self._begun += 1
        else:
            return None
        if isinstance(self.plan.sampling, command_schema.Sampled):
            self.study.sampler = _sampler(self.plan.sampling, (number,))
        trial = open_trial(number)
        return trial.number, self._params(trial)

    def _begin(self, number: int) -> optuna.Trial:
        """A new trial, with all that is known of its job.

        Study.ask would look through all trials first, for one that waits: there is none.
        """
        trial_id = self.study._storage.create_new_trial(self.study._study_id, template_trial=self._known(number))
        return optuna.Trial(self.study, trial_id)

    def _known(self, number: int) -> FrozenTrial | None:
        """A job as its place in the grid and its folder have it; None where its values are still to be drawn."""
        folder = self.folder / str(number)
        record = record_of(folder)  # there is one if the study was lost, or is kept elsewhere now
        if isinstance(self.plan.sampling, command_schema.Grid):
            job = self.plan.jobs[number]
        elif record and record.overrides.keys() >= self._distributions.keys():
            job = record.overrides
        elif number < len(self._first):
            job = self._first[number]
        else:
            return None
        known = {key: one for key, one in self._distributions.items() if key in job}
        try:
            return create_trial(
                state=TrialState.RUNNING,
                params={key: value_of(job[key], one) for key, one in known.items()},
                distributions=known,
                intermediate_values=self._reported(record) if record else None,
            )
        except ValueError as error:
            hint = "remove it, and the job is done again"
            raise UserError(f"{folder} is of another sweep: {first_lines(error)}; {hint}") from error

    def _reported(self, record: Record) -> dict[int, float]:
        """What a job has told its pruner."""
        if self.plan.sampling.pruner == "none":
            return {}
        metric, validations = next(iter(self.plan.objectives)), enumerate(record.metrics.validations)
        return {index: one.metrics[metric] for index, one in validations if metric in one.metrics}

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

    def tell(self, number: int, outcome: JobResult) -> None:
        """Enter how a job has ended, unless it is to go on later."""
        if outcome.status in ("running", "interrupted", "missing", "damaged") or number in self.ended:
            return
        if outcome.status == "done":
            self.study.tell(number, [outcome.values[name] for name in self.plan.objectives])
        elif outcome.status == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            trial_of(self.study, number).set_user_attr("reason", outcome.reason)
            self.study.tell(number, state=TrialState.FAIL)
        self.ended.add(number)


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
