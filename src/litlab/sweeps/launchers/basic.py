"""The plain way: one job after the other."""

from collections.abc import Iterator

from litlab.sweeps.job import Ended, Job, run
from litlab.sweeps.launchers.base import left_alone


class Basic:
    """One job after the other, in this process."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Ended]:
        """See Launcher."""
        for job in left_alone(jobs):
            yield run(job)
