"""Asks Optuna's pruner about a job."""

import warnings

import optuna

from litlab.sweeps.storage import answering, trial_of


class Pruner:
    """Tells a job, in whichever process, whether to stop because others do better."""

    def __init__(self, study: optuna.Study, number: int) -> None:
        self._trial = trial_of(study, number)

    def __call__(self, validation: int, value: float) -> bool:
        """Report the objective at the n-th validation, from 0; whether to stop.

        Raises:
            ProcessLost: the storage does not answer.
        """
        with answering(), warnings.catch_warnings():
            # That it was reported before: by a process that was killed before it had saved so much.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            self._trial.report(value, validation)
            return self._trial.should_prune()
