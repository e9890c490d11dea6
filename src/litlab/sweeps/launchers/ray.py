"""Jobs on a Ray cluster: one that is there, or one on this machine for the sweep alone."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from litlab.console import say
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.sweeps.job import FinishedJob, Job, run
from litlab.sweeps.launchers.base import printing_apart, undisturbed

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise UserError(f"launcher=ray: takes {error.name}; pip install -e '.[ray]' brings it") from error

ANSWER = 5
"""Seconds in which a cluster answers; Ray itself asks for many minutes."""

LOOK_UP = 0.5
"""Seconds after which a signal counts that has come while Ray was waited for."""


class Ray:
    """Several jobs at once, each in a process of the cluster's; one that is killed runs again in another, and goes on.

    Args:
        address: HOST:PORT of a cluster that this machine belongs to; None starts one that ends with the sweep.
        n_jobs: how many jobs the cluster has at once.
        num_cpus: cores that it keeps for each, and threads that each computes with.
        num_gpus: GPUs for each, a part of one, or 0, which trains on the CPU.
        max_retries: how often a job runs again whose process was killed.

    Raises:
        UserError: there is no such cluster, or it has no room for a job.
    """

    def __init__(self, address: str | None, n_jobs: int, num_cpus: int, num_gpus: float, max_retries: int) -> None:
        self.n_jobs = n_jobs
        if not ray.is_initialized():  # of a single run, the launcher is built once more before its folder is made
            _connect(address)
        _refuse_what_has_no_room(address, num_cpus, num_gpus)
        self._work = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries)(_work)

    def run(self, jobs: Iterator[Job]) -> Iterator[FinishedJob]:
        """See Launcher; signals are held back while Ray is at work, which would swallow what they raise."""
        running: dict[Any, Job] = {}
        try:
            while True:
                while len(running) < self.n_jobs and (job := next(jobs, None)):
                    with stop.held_back():
                        running[self._work.remote(job, sys.argv)] = job
                if not running:
                    return
                with stop.held_back():
                    results, _ = ray.wait(list(running), timeout=LOOK_UP)
                    ended = [_ended(running.pop(result), result) for result in results]
                yield from ended
        finally:
            with stop.held_back():
                for result in running:
                    ray.cancel(result)  # which the job hears as a SIGINT
                if running:
                    ray.wait(list(running), num_returns=len(running))
                ray.shutdown()


def _connect(address: str | None) -> None:
    """Join the cluster, or start one.

    Raises:
        UserError: it does not answer, or refuses.
    """
    if address and not _answers(address):
        raise UserError(f"launcher.address={address}: no Ray cluster answers there")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else it writes a token into the user's home
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        # A signal to all processes, such as Ctrl-C, is for the sweep alone to hear.
        with stop.starting_processes():
            ray.init(address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            signal.signal(signal.SIGTERM, terminate)  # Ray has taken it
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"launcher=ray: {first_lines(error)}") from error


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER) as connection:
            return bool(connection.recv(1))  # a cluster speaks first, by gRPC
    except (OSError, OverflowError, UnicodeError):  # the latter two for a port or a name that cannot be one
        return False


def _refuse_what_has_no_room(address: str | None, num_cpus: int, num_gpus: float) -> None:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if any(one.get("CPU", 0) >= num_cpus and one.get("GPU", 0) >= num_gpus for one in machines):
        return
    lacking = f"no machine of the cluster has launcher.num_cpus={num_cpus} and launcher.num_gpus={num_gpus}"
    if address is None:
        ray.shutdown()
        raise UserError(lacking)
    say(f"{lacking}; the jobs wait until there is one")  # a cluster may grow


def _work(job: Job, argv: list[str]) -> FinishedJob:
    """Do a job in this process of Ray's, which may do others after it."""
    sys.argv = argv
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with stop.listening(), printing_apart(job.folder):
            [job] = undisturbed(iter([job]))  # a process that Ray has given up may still be at work
            return run(job)
    except Interrupted as request:
        return FinishedJob(job, f"stopped by {request}", killed=True)


def _ended(job: Job, result: Any) -> FinishedJob:
    """How a job has ended that is no longer at work.

    Raises:
        UserError: its machine could not begin with it, as with no other.
    """
    try:
        ended: FinishedJob = ray.get(result)
    except RayTaskError as error:
        reason = (str(error.cause).strip() or type(error.cause).__name__).splitlines()[-1]
        raise UserError(f"launcher=ray: a machine of the cluster cannot do a job: {reason}") from error
    except RayError as error:
        return FinishedJob(job, first_lines(error), killed=True)
    return ended
