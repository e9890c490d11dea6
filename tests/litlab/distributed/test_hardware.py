import logging
import os
import platform
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import settings, train
from torch import nn

from litlab.distributed import hardware
from litlab.distributed.hardware import best_precision, cores, use_all_cores
from litlab.engine.host_copy import HostCopy
from litlab.engine.logged import LoggedValues, Step
from litlab.engine.random_state import preserved_random_state, random_state, set_random_state
from litlab.errors import UserError
from litlab.training.trainer import make_trainer, settings_elsewhere


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


NETWORKS = {
    "images": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)),
    "signals": nn.ModuleDict({"deep": nn.Sequential(nn.ConvTranspose1d(1, 4, 3))}),
    "table": nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2)),
    "text": nn.Sequential(nn.Embedding(100, 16), nn.LSTM(16, 16)),
    "tokens": nn.TransformerEncoderLayer(16, 2),
}


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", None])
@pytest.mark.parametrize("network", NETWORKS)
def test_bf16_is_for_convolutions_on_processors_made_for_it(monkeypatch, able, network):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False, able: True})
    on_cpu = "bf16-mixed" if able and network in ("images", "signals") else "32-true"
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda has_gpu=has_gpu: has_gpu)
        chosen = {name: best_precision(name, NETWORKS[network])[0] for name in ("cpu", "auto", "gpu")}
        assert chosen == {"cpu": on_cpu, "auto": "32-true" if has_gpu else on_cpu, "gpu": "32-true"}


def test_the_chosen_number_format_is_printed_and_recorded(mnist_dir, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    short = ("trainer.accelerator=cpu", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "test=false")
    with caplog.at_level(logging.INFO):
        run = train(settings(*short, "views=none", "logger=none", "trainer.max_epochs=1"), tmp_path)
    reason = "the network has convolutions, which this CPU computes faster in bfloat16"
    assert f"trainer.precision=auto: bf16-mixed, as {reason}" in caplog.messages
    assert run.record.precision == "bf16-mixed"
    assert "bf16-mixed" in run.record.device


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_16_bits_are_refused_on_a_cpu(tmp_path, monkeypatch, accelerator):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    config = settings("trainer.precision=16-mixed", f"trainer.accelerator={accelerator}").trainer
    with pytest.raises(
        UserError, match=r"trainer.precision=16-mixed: is for GPUs, and this is a CPU; set trainer.prec"
    ):
        make_trainer(config, [], [], tmp_path)
    trainer = make_trainer(settings_elsewhere(config, "cpu"), [], [], tmp_path)  # to test a GPU's run
    assert trainer.precision == "32-true"


FAULTS = """
import resource, torch
from litlab.engine.host_copy import HostCopy
from litlab.engine.logged import LoggedValues, Step
from litlab.distributed.hardware import keep_memory
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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_a_step_has_freed_is_there_for_the_next_one():
    def faults(setting):
        # Its threshold at the start, which glibc otherwise moves: by luck, nothing would be returned.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 2**10)}
        command = [sys.executable, "-c", FAULTS.format(setting=setting)]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)

    assert faults("keep_memory()") < 100 < 10_000 < faults("")


def test_a_gpu_that_is_not_wanted_is_no_warning(tmp_path, monkeypatch):
    from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator

    for accelerator in (CUDAAccelerator, MPSAccelerator):
        with monkeypatch.context() as patch:
            patch.setattr(accelerator, "is_available", staticmethod(lambda: True))
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always")
                trainer = make_trainer(settings("trainer=cpu").trainer, [], [], tmp_path)
        assert isinstance(trainer.accelerator, CPUAccelerator)
        assert [str(one.message) for one in given if "available but not used" in str(one.message)] == []


def test_the_generator_of_mps_is_kept(monkeypatch):
    states = [torch.tensor([1, 2], dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    kept = random_state()
    with preserved_random_state():
        states.append(torch.tensor([3, 4], dtype=torch.uint8))
    assert states[-1].tolist() == [1, 2]
    states.append(torch.tensor([5, 6], dtype=torch.uint8))
    set_random_state(kept)
    assert states[-1].tolist() == [1, 2]


def test_values_are_read_where_no_event_tells_when_they_have_arrived(monkeypatch):
    asked, move = [], torch.Tensor.to

    def to(tensor, *args, **options):
        asked.append(options["non_blocking"])
        return move(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    gathered = LoggedValues({}, {}, ("loss",), torch.ones(1))
    transfer = HostCopy([Step(0, 1, 1, True, {}, gathered)], {})
    assert asked == [False]
    assert transfer.done()
    assert [values["loss"] for _, values in transfer.read()] == [1.0]
