"""Asks Optuna's pruner about a job."""

import warnings
from copy import copy
from statistics import fmean

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from litlab.sweeps.storage import answering, trial_of


def report_key(validation: int, place: int | str) -> str:
    """Return the user attribute of a trial that holds what its job at this place has reported."""
    return f"{validation}/{place}"


class Pruner:
    """Tells a job, in whichever process, whether to stop because others do better.

    A trial of several jobs is judged by the mean of those jobs that have reported a validation so far.

    Args:
        study: Optuna's.
        number: the job's.
        jobs: how many jobs a trial has.
    """

    def __init__(self, study: optuna.Study, number: int, jobs: int = 1) -> None:
        self._study, self._trial = study, trial_of(study, number // jobs)
        self._place = None if jobs == 1 else number % jobs

    def __call__(self, validation: int, value: float) -> bool:
        """Report the objective at the n-th validation, from 0; whether to stop.

        Raises:
            ProcessLost: the storage does not answer.
        """
        with answering(), warnings.catch_warnings():
            # That it was reported before: by a process that was killed before it had saved so much.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            try:
                if self._place is not None:
                    return self._is_beaten(report_key(validation, self._place), validation, value)
                self._trial.report(value, validation)
                return self._trial.should_prune()
            except UpdateFinishedTrialError:  # another job has ended the trial, or this job is done again
                ended = self._study._storage.get_trial(self._trial._trial_id).state
                return self._place is not None and ended == TrialState.PRUNED

    def _is_beaten(self, key: str, validation: int, value: float) -> bool:
        storage, trial = self._study._storage, self._trial._trial_id
        self._trial.set_user_attr(key, value)
        counted = 0
        while len(reports := self._reports(validation)) > counted:  # another job may report meanwhile
            if storage.get_trial(trial).user_attrs.get("pruned"):
                return True  # another job was told to stop
            storage.set_trial_intermediate_value(trial, validation, fmean(reports))  # Trial.report would keep the first
            counted = len(reports)
        known = copy(storage.get_trial(trial))
        # Other jobs of the trial may have reported later validations, which were judged then.
        known.intermediate_values = {at: one for at, one in known.intermediate_values.items() if at <= validation}
        if is_beaten := self._study.pruner.prune(self._study, known):
            self._trial.set_user_attr("pruned", True)
        return is_beaten

    def _reports(self, validation: int) -> list[float]:
        """Return what the jobs of the trial have reported at a validation."""
        reported = self._study._storage.get_trial(self._trial._trial_id).user_attrs
        return [value for key, value in reported.items() if key.startswith(report_key(validation, ""))]
