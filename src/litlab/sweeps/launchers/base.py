"""What all launchers do: start the jobs of a sweep, and say how each has ended."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from litlab.errors import UserError
from litlab.runs.lock import FolderLock
from litlab.sweeps.job import FinishedJob, Job

STOP_TIMEOUT_S = 60
"""Seconds in which the jobs of a sweep that was killed have saved their state and ended."""


class Launcher(Protocol):
    """What all of them do."""

    def run(self, jobs: Iterator[Job]) -> Iterator[FinishedJob]:
        """Start jobs as there is room, the next one only when that has come; each once it has ended."""


def undisturbed(jobs: Iterator[Job]) -> Iterator[Job]:
    """The jobs, each once nobody is at work on it; it may be still, where its sweep was killed.

    Raises:
        UserError: somebody stays at work.
    """
    for job in jobs:
        until = time.monotonic() + STOP_TIMEOUT_S
        while FolderLock(job.folder).is_held():
            if time.monotonic() > until:
                raise UserError(f"{job.folder} is in use: another process is at work on this run")
            time.sleep(0.1)
        yield job


@contextmanager
def printing_apart(folder: Path) -> Iterator[None]:
    """Print nothing between the lines of other jobs: errors go into the log in the run's folder, the rest nowhere."""
    kept = {stream: os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)}
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        os.dup2(nothing.fileno(), sys.stderr.fileno())
    with suppress(OSError), (folder / "train.log").open("a") as log:  # the job itself says that it cannot write
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        yield
    finally:
        for stream, copy in kept.items():
            stream.flush()
            os.dup2(copy, stream.fileno())
            os.close(copy)
