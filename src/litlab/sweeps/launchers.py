"""What starts the jobs of a sweep: here, one after the other, or several at once."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from litlab.interruption import Interrupted, stop
from litlab.sweeps.job import Job, run

Ended = tuple[Job, str | None]
"""A job that is no longer at work, and what went wrong."""


class Launcher(Protocol):
    """What all of them do."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Ended]:
        """Start jobs as there is room, the next one only when that has come; each once it has ended."""


class Basic:
    """One job after the other, in this process."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Ended]:
        """See Launcher."""
        for job in jobs:
            yield job, run(job)


@dataclass(frozen=True)
class Slot:
    """A job's share of the machine."""

    cores: frozenset[int]
    gpu: int | None


class Local:
    """Several jobs at once on this machine, each in a process of its own that has torch imported already.

    Args:
        n_jobs: how many at once; the cores are shared out among them.
        jobs_per_device: how many at once on one GPU, where there are any.
    """

    def __init__(self, n_jobs: int, jobs_per_device: int) -> None:
        self.n_jobs, self.jobs_per_device = n_jobs, jobs_per_device

    def run(self, jobs: Iterator[Job]) -> Iterator[Ended]:
        """See Launcher."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["litlab.train"])
        free = self._slots()
        running: dict[Any, tuple[ForkServerProcess, Job, Slot]] = {}
        try:
            while True:
                while free and (job := next(jobs, None)):
                    slot = free.pop(0)
                    process = context.Process(target=_work, args=(job, slot))
                    with stop.starting_processes():
                        process.start()
                        running[process.sentinel] = process, job, slot
                if not running:
                    return
                for sentinel in wait(list(running)):
                    process, job, slot = running.pop(sentinel)
                    process.join()
                    free.append(slot)
                    yield job, _reason(process.exitcode)
        finally:
            processes = [process for process, _, _ in running.values()]
            for process in processes:
                os.kill(process.pid or 0, signal.SIGUSR1)
            for process in processes:
                process.join()

    def _slots(self) -> list[Slot]:
        import torch

        gpus = [gpu for gpu in range(torch.cuda.device_count()) for _ in range(self.jobs_per_device)]
        places: list[int | None] = list(gpus[: self.n_jobs]) or [None] * self.n_jobs
        bound = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        shares = [
            frozenset(bound[index :: len(places)] or bound[index % len(bound) :][:1]) for index in range(len(places))
        ]
        return [Slot(share, gpu) for share, gpu in zip(shares, places, strict=True)]


def _work(job: Job, slot: Slot) -> None:
    """Do a job in this process, which hears of signals only by the sweep's."""
    with stop.listening():
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
            _settle_in(job, slot)
            reason = run(job)
        except Interrupted as error:
            sys.exit(error.exit_code)
    sys.exit(1 if reason else 0)


def _settle_in(job: Job, slot: Slot) -> None:
    """Keep to the slot, and print nothing between the lines of other jobs."""
    if slot.cores:
        os.sched_setaffinity(0, slot.cores)
    if slot.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot.gpu)
    with (job.folder / "train.log").open("a") as log, Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def _stop_with_the_sweep() -> None:
    sweep = multiprocessing.parent_process()
    if sweep:
        wait([sweep.sentinel])
        os.kill(os.getpid(), signal.SIGUSR1)


def _reason(exit_code: int | None) -> str | None:
    if exit_code and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}" if exit_code else None
