import os
import platform
import subprocess
import sys

import pytest
import torch

from litlab.engine import hardware
from litlab.engine.hardware import best_precision, cores, use_all_cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 6), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6)],
)
def test_a_containers_quota_limits_the_cores(tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores(tmp_path) == expected


def test_without_a_quota_all_cores_of_the_process_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert cores(tmp_path) == 2


def test_the_users_number_of_threads_wins(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(hardware, "cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    use_all_cores()
    assert chosen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(hardware, "THREADS", 12)
    use_all_cores()
    monkeypatch.setattr(hardware, "THREADS", 4)  # PyTorch leaves hyper-threads alone
    use_all_cores()
    assert chosen == [7, 4]


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16"])
def test_bf16_is_for_processors_made_for_it(monkeypatch, able):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, able: True})
    assert best_precision("cpu") == best_precision("auto") == "bf16-mixed"
    assert best_precision("gpu") == "32-true"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, able: False})
    assert best_precision("cpu") == best_precision("auto") == "32-true"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True})
    assert best_precision("auto") == "32-true"
    assert best_precision("cpu") == "bf16-mixed"


FAULTS = """
import resource, torch
from litlab.engine.hardware import keep_memory
{setting}
def step():
    tensors = [torch.ones(2_000_000) for _ in range(10)]  # 80 MB, freed at its end
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_a_step_has_freed_is_there_for_the_next_one():
    def faults(setting):
        # Its threshold at the start, which glibc otherwise moves: by luck, nothing would be returned.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 2**10)}
        command = [sys.executable, "-c", FAULTS.format(setting=setting)]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)

    assert faults("keep_memory()") < 100 < 10_000 < faults("")
