"""Which of several processes this is, and where further ones come from; needs no torch."""

import multiprocessing
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext

from litlab.distributed.signals import stop
from litlab.errors import UserError


@dataclass(frozen=True)
class Rank:
    """Which of the processes that train together this is, counted from 0: of all, and of those on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


SINGLE_PROCESS = Rank(0, 1, 0, 1)

UNSET = "unset it, unless torchrun or srun starts the processes"

LONGEST_TMPDIR = 70
"""Bytes of a folder in which multiprocessing's sockets can be."""


def given(environment: Mapping[str, str] = os.environ) -> Rank:
    """What torchrun, or Slurm's srun, says to a process that it has started; ALONE if it is the only one.

    Raises:
        UserError: it is nonsense.
    """
    if environment.get("RANK") and environment.get("WORLD_SIZE"):
        names, local = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), _number(environment, "LOCAL_WORLD_SIZE", 1)
    elif environment.get("SLURM_STEP_NUM_TASKS"):  # a batch script's own shell has none
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        local = _number(environment, names[1]) // max(1, _number(environment, "SLURM_STEP_NUM_NODES", 1))
    else:
        return SINGLE_PROCESS
    rank, count, local_rank = (_number(environment, name) for name in names)
    if rank >= max(1, count):
        raise UserError(f"{names[0]}={rank}: is not below {names[1]}={count}; {UNSET}")
    return Rank(rank, count, local_rank, local) if count > 1 else SINGLE_PROCESS


def _number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(
            f"{name}={text}: is not a number from 0; unset it, unless torchrun or srun starts the processes"
        )
    return int(text)


def forget_others() -> None:
    """Let Lightning not take this process for one of several because of what an environment still says of others.

    Raises:
        UserError: that is nonsense.
    """
    if given() is SINGLE_PROCESS:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
            os.environ.pop(name, None)


def shorten_socket_paths() -> None:
    """Keep the sockets by which processes meet where their names fit, should TMPDIR be too long for that.

    The name may have 107 bytes (Linux' unix(7)), of which multiprocessing adds some 30 to the folder.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        tempfile.tempdir = "/tmp"  # noqa: S108 (in which a folder of our own is made)
        util.get_temp_dir()  # which multiprocessing keeps from now on
        tempfile.tempdir = folder


def fork_server() -> ForkServerContext:
    """Where processes come from that have torch imported already; it goes on with that while this one does others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["litlab.training.train"])
    resource_tracker.ensure_running()  # which lets signals through when it starts: not while the server does
    with stop.starting_processes():
        forkserver.ensure_running()
    return context
