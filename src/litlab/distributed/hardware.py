"""What this machine is good at, and how a process makes use of it."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from litlab.distributed.group import current_rank

THREADS = torch.get_num_threads()
"""The number of threads that PyTorch takes by itself; it does not count hyper-threads."""

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
        torch.set_num_threads(max(1, min(cores(), THREADS) // current_rank().local_world_size))


def cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, at least 1: those it is bound to, within the quota of its control group (v2)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        return bound
    return bound if quota == "max" else max(1, min(bound, int(quota) // int(period)))


def is_cpu(accelerator: str) -> bool:
    """Whether Lightning would compute on the CPU with this accelerator."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def has_bf16_instructions() -> bool:
    """Whether the CPU has instructions for bfloat16: AVX-512 BF16 or AMX."""
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot say
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def best_precision(accelerator: str, module: nn.Module) -> tuple[Literal["32-true", "bf16-mixed"], str]:
    """Lightning's name of the number format for `trainer.precision=auto`, and why it is taken.

    A rule instead of a measurement, so that equal seeds give equal numbers: on a CPU with instructions for bfloat16,
    convolutions are faster in it, and small linear layers slower, since their conversions take longer than they do.
    """
    if not is_cpu(accelerator):
        return "32-true", "computing on an accelerator"
    if not has_bf16_instructions():
        return "32-true", "this CPU has no instructions for bfloat16"
    if not any(isinstance(part, _ConvNd) for part in module.modules()):
        return "32-true", "the network has no convolutions, which alone are faster in bfloat16 on this CPU"
    return "bf16-mixed", "the network has convolutions, which this CPU computes faster in bfloat16"
