"""Sweeps on real Ray clusters."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import SHORT
from multiruns import at_work, only, pids, record, statuses, sweep_arguments, table
from processes import Process, run

pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[ray]'")

pytestmark = [pytest.mark.usefixtures("mnist_dir"), pytest.mark.slow]

LONGER = ("seed=1,2", "trainer.max_epochs=30", "trainer.limit_train_batches=60", "checkpoint.every_n_steps=60")

TWO_MACHINES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
print("address:", cluster.address, flush=True)
if sys.stdin.readline():
    cluster.remove_node(second, allow_graceful=False)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def two_machines(**environment):
    """A cluster's address, and what loses its second machine; they are two only as far as Ray can tell."""
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"} | environment
    with subprocess.Popen(
        [sys.executable, "-c", TWO_MACHINES], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address: "))
        yield address, lambda: print("lose it", file=process.stdin, flush=True)
        process.stdin.close()


@pytest.fixture(scope="module")
def cluster():
    with two_machines() as (address, _):
        yield address


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, "train", *sweep_arguments(folder), *LONGER).code == 0
    return table(only(folder))


def begun(folder, *arguments):
    """A sweep, the first process of its group, in the middle of its first two jobs."""
    process = Process(folder, "train", *sweep_arguments(folder), *LONGER, *arguments, prepare=os.setsid)
    jobs = folder / "logs" / "train" / "multiruns"
    process.wait_for(lambda: len(list(jobs.glob("*/[01]/checkpoints/last.ckpt"))) == 2)
    return process, only(folder)


def machine(pid):
    """The process of Ray's that stands for the machine on which this one is."""
    return int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def group(leader):
    """The processes of its group that are left."""
    stats = [file.read_text().rpartition(")")[2].split() for file in Path("/proc").glob("[0-9]*/stat")]
    return [stat for stat in stats if int(stat[2]) == leader and stat[0] != "Z"]


def test_a_killed_workers_job_goes_on_in_another_process(undisturbed, cluster, tmp_path):
    by_address = ["launcher=ray", f"launcher.address={cluster}"]
    process, sweep = begun(tmp_path, *by_address)
    workers = [at_work(sweep / "0"), at_work(sweep / "1")]
    assert machine(workers[0]) != machine(workers[1])
    os.kill(workers[0], signal.SIGKILL)
    process.wait_for(lambda: record(sweep / "0")["resumed"])
    assert at_work(sweep / "0") not in workers
    ended = process.end()
    assert (ended.code, ended.err) == (0, "")
    assert [step["step"] > 0 for step in record(sweep / "0")["resumed"]] == [True]
    assert table(sweep) == undisturbed


def test_a_lost_machines_job_goes_on_on_another(undisturbed, tmp_path):
    with two_machines() as (address, lose):
        process, sweep = begun(tmp_path, "launcher=ray", f"launcher.address={address}")
        lose()
        ended = process.end()
    assert (ended.code, ended.err) == (0, "")
    assert sorted(len(record(sweep / job)["resumed"]) for job in ("0", "1")) == [0, 1]
    assert table(sweep) == undisturbed


def test_a_process_that_does_several_jobs_keeps_them_apart(tmp_path):
    arguments = sweep_arguments(tmp_path, "seed=1,2,3", "launcher=ray", "launcher.n_jobs=1")
    ended = run(tmp_path, "train", *arguments)
    assert (ended.code, ended.err) == (0, "")
    jobs = [only(tmp_path) / number for number in ("0", "1", "2")]
    assert [(job / "train.log").read_text().count("training on cpu") for job in jobs] == [1, 1, 1]
    assert "training on cpu" not in ended.out
    command = " ".join(["python -m litlab train", *arguments])
    assert [record(job)["command"] for job in jobs] == [command] * 3


def test_a_single_run_is_a_job_like_another(tmp_path):
    for launcher in ("basic", "ray"):
        ended = run(tmp_path, "train", *SHORT, f"hydra.run.dir={tmp_path}/{launcher}", f"launcher={launcher}")
        assert (ended.code, ended.err) == (0, "")
    by_ray, by_basic = (record(tmp_path / launcher)["metrics"] for launcher in ("ray", "basic"))
    assert (by_ray["best"], by_ray["test"]) == (by_basic["best"], by_basic["test"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_the_jobs_and_they_save_their_state(tmp_path, number):
    process, sweep = begun(tmp_path, "launcher=ray")
    os.killpg(process.process.pid, number)
    ended = process.end()
    assert (ended.code, ended.err) == (128 + number, f"train: stopped by {number.name}\n")
    assert statuses(sweep) == ["interrupted", "interrupted"]
    assert [record(sweep / job)["reason"] for job in ("0", "1")] == ["SIGINT", "SIGINT"]
    assert group(process.process.pid) == []
    assert pids(sweep, ".lock") == []


def test_a_sweep_stops_on_a_cluster_that_stays(undisturbed, cluster, tmp_path):
    process, sweep = begun(tmp_path, "launcher=ray", f"launcher.address={cluster}")
    process.send(signal.SIGUSR1)
    ended = process.end()
    assert (ended.code, ended.err) == (143, "train: stopped by SIGUSR1\n")
    assert statuses(sweep) == ["interrupted", "interrupted"]
    resumed = run(tmp_path, "train", "-m", f"resume={sweep}", "launcher=ray", f"launcher.address={cluster}")
    assert (resumed.code, resumed.err) == (0, "")
    assert table(sweep) == undisturbed


def test_jobs_stop_with_their_sweep_and_go_on(undisturbed, tmp_path):
    process, sweep = begun(tmp_path, "launcher=ray")
    process.send(signal.SIGKILL)
    process.end()
    resumed = run(tmp_path, "train", "-m", f"resume={sweep}", "launcher=ray")
    assert (resumed.code, resumed.err) == (0, "")
    assert table(sweep) == undisturbed


def test_a_job_that_was_killed_once_too_often_is_interrupted(tmp_path):
    process, sweep = begun(tmp_path, "launcher=ray", "launcher.max_retries=0")
    os.kill(at_work(sweep / "1"), signal.SIGKILL)
    ended = process.end()
    assert ended.code == 1
    assert statuses(sweep) == ["done", "interrupted"]
    assert record(sweep / "1")["reason"].startswith("The worker died unexpectedly")


def test_a_machine_that_lacks_the_project_leaves_the_jobs_to_be_done(tmp_path):
    (tmp_path / "litlab").mkdir()
    (tmp_path / "litlab" / "__init__.py").touch()
    with two_machines(PYTHONPATH=str(tmp_path)) as (address, _):
        arguments = sweep_arguments(tmp_path, "seed=1,2", "launcher=ray", f"launcher.address={address}")
        ended = run(tmp_path, "train", *arguments)
    lacking = "ModuleNotFoundError: No module named 'litlab.sweeps'"
    assert (ended.code, ended.err) == (2, f"train: launcher=ray: a machine of the cluster cannot do a job: {lacking}\n")
    assert statuses(only(tmp_path)) == ["not begun", "not begun"]


def refused(folder, *arguments, prepare=lambda: None):
    ended = run(folder, "train", *sweep_arguments(folder, "seed=1,2", "launcher=ray", *arguments), prepare=prepare)
    assert ended.code == 2, ended.err
    assert not (folder / "logs").exists()
    (line,) = ended.lines()
    return line


def test_mistakes_are_told_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        line = refused(tmp_path, f"launcher.address={address}")
    assert line == f"train: launcher.address={address}: no Ray cluster answers there"
    assert refused(tmp_path, f"launcher.address={address}") == line
    line = refused(tmp_path, "launcher.address=here:99999")
    assert line == "train: launcher.address=here:99999: no Ray cluster answers there"
    assert refused(tmp_path, "launcher.address=here").startswith("train: launcher.address=here: String should match ")
    whole = "train: launcher.num_gpus=1.5: should be a valid integer or less than 1"
    assert refused(tmp_path, "launcher.num_gpus=1.5") == whole
    lacking = "train: no machine of the cluster has launcher.num_cpus=1000 and launcher.num_gpus=0"
    assert refused(tmp_path, "launcher.num_cpus=1000") == lacking


def test_without_ray_it_is_said_where_that_is(tmp_path):
    def forget():
        sys.modules["ray"] = None
        sys.modules.pop("litlab.sweeps.launchers.ray", None)  # which another test may have imported with it

    assert refused(tmp_path, prepare=forget) == "train: launcher=ray: takes ray; pip install -e '.[ray]' brings it"
