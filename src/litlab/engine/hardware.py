"""What this machine is good at, and how a process makes use of it."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from litlab.engine.group import place

THREADS = torch.get_num_threads()
"""As many as PyTorch takes by itself: it counts no hyper-threads."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What glibc's `mallopt` sets; <malloc.h>."""


def keep_memory() -> None:
    """Let memory that was freed stay with this process, for the next step, where the C library is glibc.

    By itself it returns what large tensors have freed, so that the system hands out and zeroes the same pages again at
    each step. Single tensors of more than 32 MiB, glibc's limit for this, are returned all the same.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # anything smaller comes from the heap,
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # which is not made smaller


def use_all_cores() -> None:
    """Let PyTorch use the cores that this process really has, unless OMP_NUM_THREADS says how many.

    A container's share of the machine is a quota of time, which PyTorch does not look at. Processes that train together
    on this machine share the cores.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(cores(), THREADS) // place().local_count))


def cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, at least 1: those it is bound to, within the quota of its control group (v2)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        return bound
    return bound if quota == "max" else max(1, min(bound, int(quota) // int(period)))


def best_precision(accelerator: str) -> str:
    """Lightning's name of the number format that is fastest: bf16-mixed on a CPU with instructions for it."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot say
    return "bf16-mixed" if on_cpu and (able.get("avx512_bf16") or able.get("amx_bf16")) else "32-true"
