"""Several jobs at once on this machine."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from litlab.config.compose import load
from litlab.config.schema import Train
from litlab.distributed.processes import fork_server
from litlab.distributed.signals import Interrupted, stop
from litlab.sweeps.job import FinishedJob, Job, run
from litlab.sweeps.launchers.base import printing_apart, undisturbed


@dataclass(frozen=True)
class Slot:
    """A job's share of the machine."""

    cores: frozenset[int]
    """Empty where a process cannot be bound to cores."""
    gpu: str | None
    """The devices of a job, as CUDA_VISIBLE_DEVICES has them."""


class Local:
    """Several jobs at once on this machine, each in a process of its own that has torch imported already.

    Args:
        n_jobs: how many at once; the cores are shared out among them.
        jobs_per_device: how many at once on one GPU, if the first job is for GPUs and there are any.
    """

    def __init__(self, n_jobs: int, jobs_per_device: int) -> None:
        self.n_jobs, self.jobs_per_device = n_jobs, jobs_per_device

    def run(self, jobs: Iterator[Job]) -> Iterator[FinishedJob]:
        """See Launcher."""
        jobs, context = undisturbed(jobs), fork_server()
        first = next(jobs, None)
        if first is None:
            return
        jobs = chain([first], jobs)
        free = self._slots(uses_gpus=load(first.folder / "config.yaml", Train).trainer.accelerator != "cpu")
        running: dict[Any, tuple[ForkServerProcess, Job, Slot, Connection[FinishedJob, FinishedJob]]] = {}
        try:
            while True:
                while free and (job := next(jobs, None)):
                    slot = free.pop(0)
                    answer, answering = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(job, slot, answering))
                    with stop.starting_processes(), answering:
                        process.start()
                        running[process.sentinel] = process, job, slot, answer
                if not running:
                    return
                for sentinel in wait(list(running)):
                    process, job, slot, answer = running.pop(sentinel)
                    process.join()
                    free.append(slot)
                    with answer:
                        ended = _ended(job, process.exitcode or 0, answer)
                    yield ended
        finally:
            processes = [process for process, *_ in running.values()]
            for process in processes:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(process.pid or 0, signal.SIGUSR1)
            for process in processes:
                process.join()

    def _slots(self, uses_gpus: bool) -> list[Slot]:
        import torch

        gpus = [str(gpu) for gpu in range(torch.cuda.device_count() if uses_gpus else 0)]
        if gpus and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")):
            gpus = visible.split(",")[: len(gpus)]
        places: Sequence[str | None] = (gpus * self.jobs_per_device)[: self.n_jobs] or [None] * self.n_jobs
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        shares = [
            cores[index :: len(places)] or cores[index % max(1, len(cores)) :][:1] for index in range(len(places))
        ]
        return [Slot(frozenset(share), gpu) for share, gpu in zip(shares, places, strict=True)]


def _work(job: Job, slot: Slot, answering: "Connection[FinishedJob, FinishedJob]") -> None:
    """Do a job in this process, which hears of signals only by the sweep's, and send how it has ended."""
    with stop.listening():
        try:
            # A signal to all processes, such as Ctrl-C, is for the sweep alone to hear, which passes it on by SIGUSR1.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
            _keep_to(slot)
            with printing_apart(job.folder):
                answering.send(run(job))
        except Interrupted as error:
            sys.exit(error.exit_code)


def _keep_to(slot: Slot) -> None:
    if slot.cores:
        os.sched_setaffinity(0, slot.cores)
    if slot.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu


def _stop_with_the_sweep() -> None:
    sweep = multiprocessing.parent_process()
    if sweep:
        wait([sweep.sentinel])
        os.kill(os.getpid(), signal.SIGUSR1)


def _ended(job: Job, exit_code: int, answer: "Connection[FinishedJob, FinishedJob]") -> FinishedJob:
    if exit_code < 0:
        return FinishedJob(job, f"killed by {signal.Signals(-exit_code).name}", killed=True)
    with suppress(EOFError):
        return answer.recv()
    return FinishedJob(job, f"ended with exit code {exit_code}")
