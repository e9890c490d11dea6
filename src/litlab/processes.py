"""Which of several processes this is, and where further ones come from; needs no torch."""

import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

from litlab.interruption import stop


@dataclass(frozen=True)
class Place:
    """Which of the processes that train together this is, counted from 0: of all, and of those on this machine."""

    rank: int
    count: int
    local_rank: int
    local_count: int


ALONE = Place(0, 1, 0, 1)


def given(environment: Mapping[str, str] = os.environ) -> Place:
    """What torchrun, or Slurm's srun, says to a process that it has started; ALONE if it is the only one."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names, local = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), int(environment.get("LOCAL_WORLD_SIZE", 1))
    elif "SLURM_STEP_NUM_TASKS" in environment:  # a batch script's own shell has none
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        local = int(environment["SLURM_STEP_NUM_TASKS"]) // int(environment.get("SLURM_STEP_NUM_NODES", 1))
    else:
        return ALONE
    rank, count, local_rank = (int(environment.get(name, 0)) for name in names)
    return Place(rank, count, local_rank, local) if count > 1 else ALONE


def nursery() -> ForkServerContext:
    """Where processes come from that have torch imported already; it goes on with that while this one does others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["litlab.commands.train"])
    resource_tracker.ensure_running()  # which lets signals through when it starts: not while the server does
    with stop.starting_processes():
        forkserver.ensure_running()
    return context
