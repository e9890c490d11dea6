"""The processes that train together, each with its share of every batch: how they begin, agree and end."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from litlab.console import open_channels
from litlab.distributed import processes
from litlab.distributed.network import network_towards, require_known_host
from litlab.distributed.processes import SINGLE_PROCESS, Rank
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import ProcessLost, UserError
from litlab.messages import first_lines

T = TypeVar("T")

LOCALHOST = "127.0.0.1"


EXIT_TIMEOUT_S = 5
"""Seconds in which a process that was started here ends by itself once the training has ended."""


@dataclass
class Group:
    """What this process knows of the others."""

    rank: Rank
    store: Store | None = None
    """Where the processes leave each other notes."""
    started: Sequence[BaseProcess] = ()
    """The processes that this one has started."""
    signals: tuple[Tensor, Any] | None = None
    """The latest question whether a signal has come, which is on its way."""


_group = Group(SINGLE_PROCESS)


def current_rank() -> Rank:
    """Which of the processes this is."""
    return _group.rank


def is_rank_zero() -> bool:
    """Whether this is the process that writes the results and speaks to the user."""
    return _group.rank.rank == 0


def broadcast_from_rank_zero(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, for all of them."""
    if _group.rank.world_size == 1:
        return make()
    made: list[Any] = [make() if is_rank_zero() else None]
    with noticing_loss():
        distributed.broadcast_object_list(made)
    result: T = made[0]
    return result


def all_gather(value: T) -> list[T]:
    """The values of all processes, the first's first; tensors in them are on the CPU."""
    if _group.rank.world_size == 1:
        return [value]
    values: list[Any] = [None] * _group.rank.world_size
    with noticing_loss():
        distributed.all_gather_object(values, apply_to_collection(value, Tensor, Tensor.cpu))
    return values


def share_signals() -> None:
    """Let a signal that has come to any process count in all of them, one call later so that nobody has to wait."""
    if not stop.shared:
        return
    before, number = _group.signals, torch.tensor([stop.noted or 0])
    with noticing_loss():
        work = distributed.all_reduce(number, distributed.ReduceOp.MAX, async_op=True)
        _group.signals = number, work
        if before is not None:
            before[1].wait()
    if before is not None and before[0].item():
        stop.received = signal.Signals(int(before[0].item()))


@contextmanager
def process_group(count: int, task: T, work: Callable[[T], None]) -> Iterator[None]:
    """While this lasts, those that torchrun or srun have started are a group, or else `count` of this machine.

    Args:
        count: how many; this is one of them, and starts the others.
        task: what these get to know, which are in the group then, too.
        work: what they do; those of torchrun and srun by `follow_given`.

    Raises:
        ProcessLost: one of them has ended.
    """
    where = processes.given()
    if where.world_size > 1:
        with _joined(where, *_store_given(where)):
            broadcast_from_rank_zero(lambda: task)
            yield
    elif count > 1:
        where = Rank(0, count, 0, count)
        with _others_started(where, work) as (store, started), _joined(where, store, LOCALHOST, started):
            broadcast_from_rank_zero(lambda: task)
            yield
    else:
        yield


def run_given_worker(work: Callable[[Any], None]) -> None:
    """Do what the first process says in one that torchrun or srun has started.

    Raises:
        ProcessLost: another one has ended.
    """
    where = processes.given()
    with _joined(where, *_store_given(where)):
        _run_worker(work)


def wait_for_device(event: Any) -> None:
    """Wait until the device has reached an event.

    Raises:
        ProcessLost: a process that was started here has ended, for which the device may wait without end.
    """
    if not _group.started:
        event.synchronize()
    while not event.query():
        if lost := _how_ended(_group.started):
            raise ProcessLost(lost)
        time.sleep(1e-4)


@contextmanager
def noticing_loss() -> Iterator[None]:
    """Tell an error that comes of another process's end from all others.

    Raises:
        ProcessLost: it does; of an error that the other process has told of, that error.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        if is_rank_zero():
            _raise_told(error)
        raise ProcessLost(_what_was_lost(error)) from error


@contextmanager
def _joined(where: Rank, store: Store, address: str, started: Sequence[BaseProcess] = ()) -> Iterator[None]:
    """Be in the group, whose first process is at this address, while this lasts."""
    global _group
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _group = Group(where, store, started)
    try:
        with network_towards(address, where):  # also for groups that Lightning makes later
            with noticing_loss():
                distributed.init_process_group(backend, store=store, rank=where.rank, world_size=where.world_size)
            yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        _group = Group(SINGLE_PROCESS)


def _store_given(where: Rank) -> tuple[Store, str]:
    """The store that torchrun has, or for srun's processes a new one; and the address of the first process."""
    with noticing_loss():
        if "MASTER_ADDR" in os.environ:
            store, _, _ = next(iter(rendezvous("env://", where.rank, where.world_size)))
            return PrefixStore("litlab", store), os.environ["MASTER_ADDR"]
        slurm = SLURMEnvironment()
        address = slurm.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        require_known_host(address)
        return TCPStore(address, slurm.main_port, where.world_size, is_master=where.rank == 0), address


@contextmanager
def _others_started(where: Rank, work: Callable[[Any], None]) -> Iterator[tuple[Store, Sequence[BaseProcess]]]:
    """The other processes of this machine; they end with this one, however it ends."""
    listening = socket.create_server((LOCALHOST, 0))  # TCPStore's own would listen to all the world
    port = listening.getsockname()[1]
    store = TCPStore(LOCALHOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    context = processes.fork_server()
    ranks = [Rank(rank, where.world_size, rank, where.world_size) for rank in range(1, where.world_size)]
    others = [context.Process(target=_begin, args=(other, port, work)) for other in ranks]
    try:
        with stop.starting_processes():
            for process in others:
                process.start()
        while not store.check([f"begun/{other.rank}" for other in ranks]):
            if lost := _how_ended(others):
                raise ProcessLost(lost)
            time.sleep(0.01)
        yield store, others
        for process in others:
            process.join(EXIT_TIMEOUT_S)
    finally:
        for process in others:
            if process.pid is not None:
                process.kill()
                process.join()


def _begin(where: Rank, port: int, work: Callable[[Any], None]) -> None:
    """Be one of the processes that the first one has started, by which it hears of signals."""
    open_channels()
    threading.Thread(target=_end_with_first, daemon=True).start()
    try:
        store = TCPStore(LOCALHOST, port, is_master=False)
        store.set(f"begun/{where.rank}", "")
        with _joined(where, store, LOCALHOST):
            _run_worker(work)
    except (Exception, Interrupted):
        sys.exit(1)


def _end_with_first() -> None:
    first = parent_process()
    if first:
        wait([first.sentinel])
        os._exit(1)


def _run_worker(work: Callable[[Any], None]) -> None:
    """Do what the first process says; an error is left for it, to be raised there."""
    try:
        work(broadcast_from_rank_zero(lambda: None))
    except ProcessLost:
        raise
    except Exception as error:
        told = {"by_user": isinstance(error, UserError), "text": str(error), "traceback": traceback.format_exc()}
        with suppress(RuntimeError):  # of a store that is gone
            if _group.store:
                _group.store.set(f"error/{_group.rank.rank}", json.dumps(told))
        raise


def _raise_told(loss: Exception) -> None:
    """Raise what another process has left for this one, if it has."""
    store = _group.store
    for rank in range(1, _group.rank.world_size):
        with suppress(distributed.DistError):  # of a store that is gone
            if store and store.check([f"error/{rank}"]):
                told = json.loads(store.get(f"error/{rank}"))
                if told["by_user"]:
                    raise UserError(*(f"process {rank}: {line}" for line in told["text"].splitlines())) from loss
                error = RuntimeError(f"process {rank} has failed: {told['text']}")
                error.add_note(f"in process {rank}:\n{told['traceback']}")
                raise error from loss


def _what_was_lost(loss: Exception) -> str:
    until = time.monotonic() + 1
    while _group.started and time.monotonic() < until:  # a process that is killed loses its connections first
        if lost := _how_ended(_group.started):
            return lost
        time.sleep(0.01)
    reason = re.sub(r"^\[\S+\] ", "", first_lines(loss)).partition(". ")[0]  # without gloo's file, and its advice
    return f"the connection to another process is lost: {reason}"


def _how_ended(started: Sequence[BaseProcess]) -> str:
    """What has become of the first process that has ended, if one has."""
    for rank, process in enumerate(started, start=1):
        if process.exitcode is not None:
            code = process.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return f"process {rank} {how}"
    return ""
