"""Trainings whose processes were started by torchrun or srun, on two machines: network namespaces with a cable."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHORT
from processes import Process, run

pytestmark = pytest.mark.usefixtures("mnist_dir")

TRAINING = (*SHORT, "trainer.num_sanity_val_steps=0", "checkpoint.every_n_steps=5", "trainer.steps_per_execution=5")
ADDRESS = "10.77.0.1"


def record(folder):
    return json.loads((folder / "run.json").read_text())


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def why_not():
    """Why there can be no network namespaces here, if so."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "network namespaces take root, and ip (Debian's iproute2)"
    made = ip("netns", "add", "litlab-try", check=False)
    ip("netns", "del", "litlab-try", check=False)
    return f"there are no network namespaces: {made.stderr.strip()}" if made.returncode else None


@pytest.fixture
def machines():
    """The names of two machines that reach each other as 10.77.0.1 and 10.77.0.2, and nobody else."""
    if reason := why_not():
        pytest.skip(reason)
    names = [f"litlab-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable1", "netns", names[0], "type", "veth", "peer", "name", "cable2", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", f"cable{number}")
            for device in (f"cable{number}", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def by_torchrun(rank, port=29500):
    """What torchrun tells one of two processes, each on a machine of its own."""
    return {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": ADDRESS, "MASTER_PORT": str(port),
    }  # fmt: skip


def by_srun(rank):
    """What srun tells one of two processes on one machine."""
    return {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": str(os.getpid()),
    }  # fmt: skip


def among(environment, machine=None, prepare=lambda: None):
    """What makes a process one that was started with this environment, on this machine."""

    def settled_result():
        if machine:
            with Path("/var/run/netns", machine).open() as namespace:
                assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0  # os.setns came with Python 3.12
        os.environ |= environment
        prepare()

    return settled_result


def start(folder, environments, machines, *arguments, prepare=(lambda: None, lambda: None)):
    return [
        Process(folder, "train", *arguments, prepare=among(*process))
        for process in zip(environments, machines, prepare, strict=True)
    ]


def ends_of(processes):
    """How each has ended: its exit code, and what it said of it; torch complains of machines that have no names."""
    ends = [process.end() for process in processes]
    return [(end.code, [line for line in end.lines() if "[c10d] The hostname of" not in line]) for end in ends]


WELL = [(0, []), (0, [])]


def test_two_machines_train_one_run_which_is_the_firsts(machines, tmp_path):
    arguments = [*TRAINING, f"paths.logs={tmp_path}/logs"]
    processes = start(tmp_path, map(by_torchrun, (0, 1)), machines, *arguments)
    assert ends_of(processes) == WELL
    assert "val/acc" in processes[0].end().out
    assert processes[1].end().out == ""
    (folder,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert record(folder)["status"] == "done"
    assert record(folder)["device"].startswith("2 processes")


def test_srun_starts_one_run(tmp_path):
    arguments = [*TRAINING, f"paths.logs={tmp_path}/logs"]
    processes = start(tmp_path, map(by_srun, (0, 1)), (None, None), *arguments)
    assert ends_of(processes) == WELL
    (folder,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert record(folder)["status"] == "done"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_that_is_lost_ends_the_other_and_the_run_goes_on(machines, tmp_path, lost):
    folder = tmp_path / "run"

    def die_at_step_ten():
        from digits.classifier import Classifier

        step = Classifier.training_step

        def mortal_step(module, batch, batch_idx):
            if batch_idx == 10:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(module, batch, batch_idx)

        Classifier.training_step = mortal_step

    prepare = [die_at_step_ten if rank == lost else lambda: None for rank in (0, 1)]
    arguments = [*TRAINING, f"hydra.run.dir={folder}"]
    ends = ends_of(start(tmp_path, map(by_torchrun, (0, 1)), machines, *arguments, prepare=prepare))
    assert ends[lost] == (-signal.SIGKILL, [])
    code, (line,) = ends[1 - lost]
    assert code == 1
    assert line.startswith("train: the connection to another process is lost: ")
    assert f"[10.77.0.{lost + 1}]" in line
    if lost == 1:
        assert line.endswith(f"; what was saved is whole, go on with: python -m litlab train resume={folder}")
        assert record(folder)["status"] == "interrupted"
    resumed = start(tmp_path, (by_torchrun(0, 29501), by_torchrun(1, 29501)), machines, f"resume={folder}")
    assert ends_of(resumed) == WELL
    assert record(folder)["resumed"][0]["step"] == 10
    assert record(folder)["status"] == "done"


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_machine_stops_both(machines, tmp_path, told):
    folder = tmp_path / "run"
    arguments = [*TRAINING, "trainer.max_epochs=100", f"hydra.run.dir={folder}"]
    processes = start(tmp_path, map(by_torchrun, (0, 1)), machines, *arguments)
    processes[told].wait_for((folder / "checkpoints" / "last.ckpt").exists)
    processes[told].send(signal.SIGTERM)
    assert [process.end().code for process in processes] == [143, 143]
    assert (record(folder)["status"], record(folder)["reason"]) == ("interrupted", "SIGTERM")


@pytest.mark.parametrize("arguments", [["train", "-m", "seed=1,2"], ["evaluate", "run=last"]])
def test_several_processes_are_for_one_training(tmp_path, arguments):
    command, *arguments = arguments
    refused = run(tmp_path, command, *arguments, f"paths.logs={tmp_path}", prepare=among(by_torchrun(0)))
    message = f"{command}: torchrun and srun can start several processes for one training alone: leave them out\n"
    assert (refused.code, refused.err) == (2, message)


@pytest.mark.slow
def test_torchrun_starts_a_machines_processes(machines, tmp_path):
    folder = tmp_path / "run"
    for machine in machines:
        assert machine in ip("netns", "list").stdout
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    torchrun += [f"--master_addr={ADDRESS}", "--master_port=29500"]
    command = ["-m", "litlab", "train", *TRAINING, f"hydra.run.dir={folder}"]
    processes = [
        subprocess.Popen(["ip", "netns", "exec", machine, *torchrun, f"--node_rank={rank}", *command], cwd=tmp_path)
        for rank, machine in enumerate(machines)
    ]
    assert [process.wait(240) for process in processes] == [0, 0]
    assert record(folder)["status"] == "done"
