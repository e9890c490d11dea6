"""launcher=slurm on a real Slurm of two nodes, which scripts/dev/local-slurm starts and stops."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SHORT
from multiruns import only, pairs, pids, record, six_jobs, six_jobs_disturbed, statuses, sweep_arguments, table
from processes import Process, run

from litlab.runs.run import Run
from litlab.sweeps.job import Job

pytest.importorskip("submitit", reason="submitit is not installed")
from litlab.sweeps.launchers.slurm import _put_back

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")

missing = [daemon for daemon in DAEMONS if not shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm is started by root alone"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.usefixtures("mnist_dir", "slurm"),
]


def scripts_slurm(action):
    return subprocess.run([ROOT / "scripts" / "dev" / "local-slurm", action], capture_output=True, text=True)


@pytest.fixture(scope="module")
def slurm():
    was_up = Path("/var/lib/litlab-slurm").exists()
    started = scripts_slurm("up")
    assert started.returncode == 0, started.stderr
    name, value = started.stdout.strip().removeprefix("export ").split("=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        yield
    if not was_up:
        scripts_slurm("down")


def asked(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()


def queue():
    return asked("squeue", "--noheader", "--format=%i")


def wait_until(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited for {seconds} seconds"
        time.sleep(0.1)


def slurms_job(folder):
    return (folder / "slurm_job").read_text()


def states(job):
    """All that a job, or an array, has gone through; those at work are waited for, and the accounting, which lags."""

    def accounted():
        return asked("sacct", "--noheader", "-X", "--duplicates", "--format=State", f"--jobs={job}").split()

    wait_until(lambda: queue() == "")
    wait_until(lambda: not {"PENDING", "RUNNING"} & set(accounted()))
    return accounted()


LONG = ("trainer.max_epochs=20", "trainer.limit_train_batches=60", "checkpoint.every_n_steps=50")


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_six_jobs_of_which_one_fails_and_one_is_killed_end_in_the_table_of_the_basic_launcher(tmp_path):
    (tmp_path / "basic").mkdir()
    (tmp_path / "slurm").mkdir()
    sweep = six_jobs_disturbed(tmp_path / "slurm", "launcher=slurm")
    assert table(sweep) == table(six_jobs(tmp_path / "basic"))
    jobs = [slurms_job(sweep / str(number)) for number in range(6)]
    array = jobs[0].partition("_")[0]
    assert [job for job in jobs if job.partition("_")[0] == array] == [
        f"{array}_{number}" for number in (0, 1, 2, 4, 5)
    ]
    assert states(array) == [*["COMPLETED"] * 3, "FAILED", *["COMPLETED"] * 2]
    assert record(sweep / "0")["command"].startswith("python -m litlab train -m ")


def test_trials_of_several_jobs_end_in_the_table_of_the_basic_launcher(tmp_path):
    (tmp_path / "basic").mkdir()
    (tmp_path / "slurm").mkdir()
    assert table(pairs(tmp_path / "slurm", "launcher=slurm")[0]) == table(pairs(tmp_path / "basic")[0])


def test_what_is_asked_for_is_what_slurm_gives(tmp_path):
    options = ["time=7", "cpus_per_task=1", "mem=500M", "partition=main", "setup=['export LITLAB_TEST=set-up']"]
    more = "launcher.sbatch={comment: tried}"
    ended = run(
        tmp_path,
        "train",
        *SHORT,
        f"hydra.run.dir={tmp_path}/run",
        "launcher=slurm",
        more,
        *[f"launcher.{option}" for option in options],
    )
    assert ended.code == 0, ended.err
    told = asked("scontrol", "show", "job", slurms_job(tmp_path / "run"))
    for words in ("TimeLimit=00:07:00", "Partition=main", "MinMemoryNode=500M", "Comment=tried", "CPUs/Task=1"):
        assert words in told
    assert "export LITLAB_TEST=set-up" in next((tmp_path / "run" / "slurm").glob("*.sh")).read_text()


def test_at_the_warning_a_single_run_goes_back_into_the_queue_and_goes_on_exactly(tmp_path):
    steps = ["trainer.limit_train_batches=400", "trainer.max_epochs=3"]
    undisturbed = run(tmp_path, "train", *SHORT, *steps, f"hydra.run.dir={tmp_path}/basic")
    assert undisturbed.code == 0, undisturbed.err
    process = Process(tmp_path, "train", *SHORT, *steps, f"hydra.run.dir={tmp_path}/run", "launcher=slurm")
    process.wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    asked("scancel", "--signal=USR1", slurms_job(tmp_path / "run"))
    ended = process.end()
    assert ended.code == 0, ended.err
    assert f"results: {tmp_path}/run\n" in ended.out
    resumed = record(tmp_path / "run")["resumed"]
    assert len(resumed) == 1
    assert 0 < resumed[0]["step"] < 1200
    assert states(slurms_job(tmp_path / "run")) == ["REQUEUED", "COMPLETED"]
    for name, weight in weights(tmp_path / "basic").items():
        assert torch.equal(weight, weights(tmp_path / "run")[name])
    assert record(tmp_path / "run")["metrics"]["test"] == record(tmp_path / "basic")["metrics"]["test"]


def test_the_time_limit_itself_ends_nothing(tmp_path):
    """Slurm looks at limits twice a minute, and may warn a minute too early."""
    steps = ["trainer.limit_train_batches=60", "trainer.max_epochs=-1", "trainer.max_time=00:00:01:40"]
    limit = ["launcher=slurm", "launcher.time=2", "launcher.warning=30"]
    process = Process(tmp_path, "train", *SHORT, *steps, f"hydra.run.dir={tmp_path}/run", *limit)
    process.process.join(250)
    assert process.end().code == 0
    assert record(tmp_path / "run")["resumed"][0]["step"] > 0
    assert record(tmp_path / "run")["training_seconds"] > 80


def test_a_job_that_does_not_get_on_is_not_put_back_for_ever(a_run, tmp_path, monkeypatch):
    folder = shutil.copytree(a_run, tmp_path / "run")
    stuck = Run.open(folder)
    for _ in range(2):
        stuck.resume(7)
    stuck.end("interrupted", "SIGUSR1")
    reason = "launcher.time is too short for it: it has not done a step in its whole time"
    assert _put_back(Job(folder, 0, {})) == reason  # to put it back would fail, this being in no job of Slurm's
    assert record(folder)["reason"] == reason
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert _put_back(Job(tmp_path, 0, {})) == reason


def test_jobs_go_on_without_their_sweep_which_finds_them_again(tmp_path):
    process = Process(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2,3"), *LONG, "launcher=slurm")
    process.wait_for(lambda: list((tmp_path / "logs").glob("train/multiruns/*/0/checkpoints/last.ckpt")))
    process.send(signal.SIGKILL)
    process.end()
    before = [slurms_job(only(tmp_path) / job) for job in "012"]
    assert queue() != ""
    ended = run(tmp_path, "train", "-m", f"resume={only(tmp_path)}", "launcher=slurm")
    assert ended.code == 0, ended.err
    assert [slurms_job(only(tmp_path) / job) for job in "012"] == before
    assert statuses(only(tmp_path)) == ["done"] * 3
    assert [record(only(tmp_path) / job)["resumed"] for job in "012"] == [[], [], []]


def test_a_signal_stops_the_jobs_which_save_their_state(tmp_path):
    process = Process(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2,3"), *LONG, "launcher=slurm")
    process.wait_for(lambda: len(list((tmp_path / "logs").glob("train/multiruns/*/*/checkpoints/last.ckpt"))) == 2)
    process.send(signal.SIGINT)
    ended = process.end()
    assert (ended.code, ended.err) == (130, "train: stopped by SIGINT\n")
    assert queue() == ""
    assert statuses(only(tmp_path)) == ["interrupted", "interrupted", "not begun"]
    assert [record(only(tmp_path) / job)["reason"] for job in "01"] == ["SIGTERM", "SIGTERM"]


def test_a_killed_job_is_told_from_its_state_in_slurm(tmp_path):
    process = Process(tmp_path, "train", *SHORT, *LONG, f"hydra.run.dir={tmp_path}/run", "launcher=slurm")
    process.wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    (at_work,) = set(pids(tmp_path, "train.log")) - {process.process.pid}
    os.kill(at_work, signal.SIGKILL)
    ended = process.end()
    assert ended.code == 1
    job = slurms_job(tmp_path / "run")
    assert ended.err.startswith(
        f"train: interrupted: Slurm's job {job} is FAILED, see {tmp_path}/run/slurm/{job}_0_log.err"
    )
    assert ended.err.rstrip().endswith(f"go on with: python -m litlab train resume={tmp_path}/run")
    resumed = run(tmp_path, "train", f"resume={tmp_path}/run", "trainer.max_epochs=21", "launcher=slurm")
    assert resumed.code == 0, resumed.err
    assert "max_epochs: 21" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_job_may_have_processes_on_several_machines(tmp_path):
    ddp = ["trainer=ddp_cpu", "launcher=slurm", "launcher.nodes=2", "launcher.ntasks_per_node=1"]
    nameless = run(tmp_path, "train", *SHORT, *ddp, f"hydra.run.dir={tmp_path}/nameless")
    assert nameless.code == 1
    assert "the first machine's name, n1, is not known here: set MASTER_ADDR to" in nameless.err
    ddp += ["launcher.setup=['export MASTER_ADDR=127.0.0.1 MASTER_PORT=29511']"]
    ended = run(tmp_path, "train", *SHORT, *ddp, f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 0, ended.err
    assert record(tmp_path / "run")["device"].startswith("2 processes")


def test_srun_starts_several_processes_of_one_training(tmp_path):
    train = [sys.executable, "-m", "litlab", "train", "trainer=ddp_cpu", *SHORT, f"hydra.run.dir={tmp_path}/run"]
    srun = ["env", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=29512", "srun", "-N2", "--ntasks-per-node=1"]
    started = subprocess.run([*srun, *train], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    assert record(tmp_path / "run")["device"].startswith("2 processes")
    assert started.stdout.count("training on") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["launcher.partition=no"], "sbatch: error: invalid partition specified: no"),
        (["launcher.sbatch={foo: bar}"], "sbatch: unrecognized option '--foo=bar'"),
        (["launcher.gpus_per_node=1"], "sbatch: error: Invalid generic resource (gres) specification"),
        (["launcher.mem=99999G"], "allocation failure: Requested node configuration is not available"),
    ],
)
@pytest.mark.parametrize("kind", [["-m", "seed=1,2"], []])
def test_what_slurm_refuses_is_told_in_one_line_and_no_folder_is_made(tmp_path, arguments, line, kind):
    ended = run(tmp_path, "train", *kind, *SHORT, f"paths.logs={tmp_path}/logs", "launcher=slurm", *arguments)
    assert (ended.code, ended.err) == (2, f"train: launcher=slurm: {line}\n")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        (lambda: sys.modules.update(submitit=None), "takes submitit; pip install -e '.[slurm]' brings it"),
        (lambda: os.environ.update(PATH="/nowhere"), "there is no sbatch; is this a Slurm cluster?"),
    ],
)
def test_what_is_lacking_is_told_in_one_line(tmp_path, lacking, line):
    def prepare():
        del sys.modules["litlab.sweeps.launchers.slurm"]
        lacking()

    ended = run(tmp_path, "train", "-m", "seed=1,2", f"paths.logs={tmp_path}/logs", "launcher=slurm", prepare=prepare)
    assert (ended.code, ended.err) == (2, f"train: launcher=slurm: {line}\n")
    assert not (tmp_path / "logs").exists()


def test_up_and_down_start_and_stop_the_same():
    assert scripts_slurm("down").returncode == 0
    assert asked("ps", "-o", "comm=", "-C", ",".join(DAEMONS)) == ""
    assert not Path("/var/lib/litlab-slurm").exists()
    assert scripts_slurm("up").returncode == 0
    again = scripts_slurm("up")
    assert (again.returncode, again.stdout) == (0, f"export SLURM_CONF={os.environ['SLURM_CONF']}\n")
