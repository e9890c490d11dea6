"""The plain way: one job after the other."""

from collections.abc import Iterator

from litlab.sweeps.job import FinishedJob, Job, run
from litlab.sweeps.launchers.base import undisturbed


class Basic:
    """One job after the other, in this process."""

    def run(self, jobs: Iterator[Job]) -> Iterator[FinishedJob]:
        """See Launcher."""
        for job in undisturbed(jobs):
            yield run(job)
