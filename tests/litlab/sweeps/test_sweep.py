"""Whole sweeps, in processes of their own."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from conftest import SHORT
from multiruns import only, pids, record, statuses, sweep_arguments, table
from plans import plan_of
from postgresql import free_port
from processes import Process, at, contents, forking_others, run
from records import said

import litlab.sweeps.launchers.local
import litlab.sweeps.pruner
from digits.classifier import Classifier
from litlab.comparison.compare import compare
from litlab.errors import UserError
from litlab.runs.last import remember
from litlab.runs.lock import FolderLock
from litlab.runs.run import Run
from litlab.sweeps.sweep import newest_sweep

pytestmark = pytest.mark.usefixtures("mnist_dir")

GRID = (
    "seed=1,2,3",
    "optimizer.lr=0.001,0.01",
    "data.batch_size=20,50",
    "sweep.exclude=['seed==3 and optimizer.lr<0.01']",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = run(folder, "train", *sweep_arguments(folder, *GRID))
    assert ended.code == 0, ended.err
    return only(folder), ended.out


def test_a_sweep_compares_its_jobs_and_keeps_the_best(undisturbed, tmp_path):
    sweep, out = undisturbed
    assert statuses(sweep) == ["done"] * 10
    assert all(record(sweep / str(job))["metrics"]["test"] == {} for job in range(10))
    accuracies = [
        max(one["metrics"]["val/acc"] for one in record(sweep / str(job))["metrics"]["validations"])
        for job in range(10)
    ]
    best = accuracies.index(max(accuracies))
    assert f"best job {best}: val/acc {accuracies[best]:.4g}, seed=" in out
    assert "10 jobs: 10 done\n" in out
    assert {"parameters.png", "parallel.png"} <= {path.name for path in (sweep / "pictures").iterdir()}
    (file,) = (sweep / "experiment").iterdir()
    assert file.name == f"job_{best}.yaml"
    assert f"the same again: python -m litlab train experiment={file}\n" in out
    again = run(tmp_path, "train", f"experiment={file}", f"hydra.run.dir={tmp_path}/again")
    assert again.code == 0, again.err
    assert record(tmp_path / "again")["metrics"]["best"] == record(sweep / str(best))["metrics"]["best"]
    assert record(tmp_path / "again")["metrics"]["test"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_in_the_same_table(undisturbed, tmp_path):
    sweep, _ = undisturbed
    moments = random.Random(0)
    arguments = sweep_arguments(tmp_path, *GRID)
    kills = 0
    while kills < 3:
        process = Process(tmp_path, "train", *arguments)
        process.wait_for(lambda: (tmp_path / "logs" / "train" / "multiruns").exists())
        time.sleep(moments.uniform(0.1, 1.2))
        process.send(signal.SIGKILL)
        kills += process.end().code == -signal.SIGKILL
        arguments = ["-m", f"resume={only(tmp_path)}"]
    ended = run(tmp_path, "train", *arguments)
    assert ended.code == 0, ended.err
    assert table(only(tmp_path)) == table(sweep)
    done = {file: text for file, text in contents(only(tmp_path)).items() if file.name == "run.json"}
    nothing_left = run(tmp_path, "train", *arguments)
    assert nothing_left.code == 0
    assert {file: file.read_bytes() for file in done} == done


def raise_where_the_seed_is(seeds, error):
    def prepare():
        step = Classifier.training_step

        def training_step(module, batch, batch_idx):
            if module.trainer.datamodule.seed in seeds and module.trainer.global_step == 5:
                raise error
            return step(module, batch, batch_idx)

        Classifier.training_step = training_step

    return prepare


@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_job_that_fails_leaves_the_others_to_go_on_if_they_should(tmp_path, on_error):
    broken = raise_where_the_seed_is({2}, MemoryError("too much"))
    ended = run(
        tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2,3", f"sweep.on_error={on_error}"), prepare=broken
    )
    sweep = only(tmp_path)
    assert ended.code == 1
    assert "Traceback" in (sweep / "1" / "train.log").read_text()
    assert record(sweep / "1")["reason"] == "MemoryError: too much"
    if on_error == "continue":
        assert statuses(sweep) == ["done", "failed", "done"]
        assert ended.lines() == ["train: 1 of 3 jobs is not done"]
        assert "1    failed  MemoryError: too much" in ended.out
        assert "3 jobs: 2 done, 1 failed" in ended.out
    else:
        assert statuses(sweep) == ["done", "failed"]
        assert "3 jobs: 1 done, 1 failed, 1 missing" in ended.out
        assert ended.lines()[0].startswith("train: 2 of 3 jobs are not done; the rest is done by: ")
        assert run(tmp_path, "train", "-m", f"resume={sweep}").code == 1
        assert statuses(sweep) == ["done", "failed", "done"]
        single = run(tmp_path, "train", f"resume={sweep}")
        assert (single.code, single.err) == (2, f"train: resume={sweep}: is a sweep's folder; add -m\n")


def test_a_signal_stops_the_sweep_and_it_goes_on_exactly(undisturbed, tmp_path):
    sweep, _ = undisturbed
    process = Process(tmp_path, "train", *sweep_arguments(tmp_path, *GRID))
    process.wait_for(lambda: list((tmp_path / "logs" / "train" / "multiruns").glob("*/3/run.json")))
    process.send(signal.SIGINT)
    stopped = process.end()
    assert (stopped.code, stopped.err) == (130, "train: stopped by SIGINT\n")
    assert f"the sweep goes on with: python -m litlab train -m resume={only(tmp_path)}\n" in stopped.out
    assert "interrupted" in statuses(only(tmp_path))
    assert len(statuses(only(tmp_path))) < 10
    assert run(tmp_path, "train", "-m", "resume=last", f"paths.logs={tmp_path}/logs").code == 0
    assert table(only(tmp_path)) == table(sweep)


@pytest.mark.slow
def test_several_jobs_at_once_end_in_the_same_table(undisturbed, tmp_path):
    sweep, _ = undisturbed
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, *GRID, "launcher=local"))
    assert ended.code == 0, ended.err
    assert table(only(tmp_path)) == table(sweep)
    assert "training on cpu" in (only(tmp_path) / "3" / "train.log").read_text()
    assert "training on cpu" not in ended.out


LONGER = ("seed=1,2,3,4", "trainer.max_epochs=10", "launcher=local")


def begun(folder, *arguments, prepare=lambda: None):
    """A sweep of several jobs at once, in the middle of the first two."""
    process = Process(folder, "train", *sweep_arguments(folder, *LONGER), *arguments, prepare=prepare)
    jobs = folder / "logs" / "train" / "multiruns"
    process.wait_for(lambda: len(list(jobs.glob("*/*/checkpoints/last.ckpt"))) >= 2)
    return process, only(folder)


@pytest.mark.slow
def test_of_several_at_once_one_is_killed_and_goes_on_later(tmp_path):
    process, sweep = begun(tmp_path)
    os.kill(pids(sweep, "train.log")[0], signal.SIGKILL)
    ended = process.end()
    assert ended.code == 1
    assert sorted(statuses(sweep)) == ["done", "done", "done", "interrupted"]
    assert "interrupted: killed by SIGKILL" in ended.out
    assert "train -m resume=" in ended.err
    assert run(tmp_path, "train", "-m", f"resume={sweep}").code == 0
    assert statuses(sweep) == ["done"] * 4


def of_its_own_terminal():
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup


@pytest.mark.parametrize(
    ("send", "number", "code"),
    [(os.killpg, signal.SIGTERM, 143), (os.killpg, signal.SIGHUP, 129), (os.kill, signal.SIGHUP, 129)],
)
def test_a_signal_stops_several_jobs_at_once_and_they_save_their_state(tmp_path, send, number, code):
    process, sweep = begun(tmp_path, "trainer.max_epochs=300", prepare=of_its_own_terminal)
    send(process.process.pid, number)
    ended = process.end()
    assert (ended.code, ended.err) == (code, f"train: stopped by {number.name}\n")
    assert f"the sweep goes on with: python -m litlab train -m resume={sweep}\n" in ended.out
    assert statuses(sweep) == ["interrupted", "interrupted"]
    assert [record(sweep / job)["reason"] for job in ("0", "1")] == ["SIGUSR1", "SIGUSR1"]
    assert pids(sweep, "train.log") == []


@pytest.mark.slow
def test_jobs_stop_with_their_sweep_and_are_waited_for(tmp_path):
    process, sweep = begun(tmp_path)
    process.send(signal.SIGKILL)
    process.end()
    ended = run(tmp_path, "train", "-m", f"resume={sweep}", "launcher=local")
    assert ended.code == 0, ended.err
    assert statuses(sweep) == ["done"] * 4


def test_a_sweep_is_one_processes_at_a_time(tmp_path):
    process = Process(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2"), "trainer.max_epochs=300")
    process.wait_for(lambda: list((tmp_path / "logs" / "train" / "multiruns").glob("*/0/run.json")))
    sweep = only(tmp_path)
    refused = run(tmp_path, "train", "-m", f"resume={sweep}")
    assert (refused.code, refused.err) == (2, f"train: {sweep} is in use: another process is at work on this sweep\n")
    process.send(signal.SIGTERM)
    process.end()


def test_no_job_is_begun_when_the_time_is_over_and_the_sweep_goes_on_later(tmp_path):
    arguments = [*sweep_arguments(tmp_path, "sweep=gp", "optimizer.lr=interval(0.001,0.01)"), "sweep.n_trials=300"]
    ended = run(tmp_path, "train", *arguments, "sweep.first=[{optimizer.lr: 0.005}]", "sweep.timeout=3s")
    assert (ended.code, ended.err) == (0, "")
    sweep = only(tmp_path)
    done = len(statuses(sweep))
    assert 0 < done < 300
    assert record(sweep / "0")["settings"]["optimizer"]["lr"] == 0.005
    goes_on = f"python -m litlab train -m resume={sweep}"
    assert f"sweep.timeout=00:00:00:03 has passed; the rest is done by: {goes_on}\n" in ended.out
    assert f"300 jobs: {done} done, {300 - done} missing\n" in ended.out
    resumed = run(tmp_path, "train", "-m", f"resume={sweep}", "sweep.timeout=1s")
    assert (resumed.code, resumed.err) == (0, "")
    assert len(statuses(sweep)) > done


def test_the_dashboard_opens_a_study_as_it_is(undisturbed):
    sweep, _ = undisturbed
    port = free_port()
    script = Path(sys.executable).with_name("optuna-dashboard")
    command = [script, "--port", str(port), sweep / "study.journal"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dashboard:
        try:
            (study,) = answer(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
            trials = answer(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}")["trials"]
        finally:
            dashboard.terminate()
    assert [trial["state"] for trial in trials] == ["Complete"] * 10
    assert {param["name"] for param in trials[0]["params"]} == {"seed", "optimizer.lr", "data.batch_size"}


def answer(url):
    """What the server answers once it is there."""
    until = time.monotonic() + 60
    while True:
        try:
            with urlopen(url) as response:
                return json.load(response)
        except URLError:
            assert time.monotonic() < until, "the server did not come up in a minute"
            time.sleep(0.1)


@pytest.mark.parametrize("launcher", ["basic", pytest.param("local", marks=pytest.mark.slow)])
def test_hopeless_jobs_are_pruned(tmp_path, launcher):
    drawn = [
        "sweep=random",
        "sweep.n_trials=8",
        "optimizer.lr=choice(0.003,0.000001)",
        "sweep.pruner=median",
        "sweep.seed=2",
    ]
    several = ["trainer.max_epochs=3", f"launcher={launcher}"]
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, *drawn), *several)
    assert ended.code == 0, ended.err
    records = [Run.open(only(tmp_path) / str(job)).record for job in range(8)]
    pruned = [record for record in records if record.status == "pruned"]
    assert pruned
    assert {record.settings["optimizer"]["lr"] for record in pruned} == {0.000001}
    last = pruned[0].metrics.validations[-1]
    assert pruned[0].reason == f"val/acc {last.metrics['val/acc']:.4g} after {last.step} steps"
    assert ": pruned: val/acc " in ended.out


@pytest.mark.slow
def test_pruning_goes_by_the_objective(tmp_path):
    by_loss = ["sweep.objectives={val/loss:min}", "sweep.pruner=median", "trainer.max_epochs=2"]
    rates = "optimizer.lr=0.000001,0.000002,0.000003,0.000004,0.000005,0.003,0.0000001"
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, rates, *by_loss))
    assert ended.code == 0, ended.err
    assert statuses(only(tmp_path)) == ["done"] * 6 + ["pruned"]
    assert record(only(tmp_path) / "6")["reason"].startswith("val/loss 2.")


@pytest.mark.parametrize("by", ["sweep.objectives={val/foo:max}", "sweep.objectives={training_seconds:min}"])
def test_what_a_validation_does_not_log_cannot_be_gone_by(tmp_path, by):
    pruned = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1", by, "sweep.pruner=median"))
    assert pruned.code == 1
    assert "; validation logs val/acc, val/loss" in pruned.out.replace("\n", " ")


def test_a_job_without_its_objective_has_failed(tmp_path):
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2", "sweep.objectives={val/foo:max}"))
    assert ended.code == 1
    assert "job 0: failed: UserError: sweep.objectives=val/foo: no such metric; validation logs val/acc" in ended.out
    assert "2 jobs: 2 failed" in ended.out


def test_a_job_whose_folder_was_removed_is_done_again(undisturbed, tmp_path):
    sweep, _ = undisturbed
    before = contents(sweep)
    shutil.copytree(sweep, tmp_path / "copy", copy_function=os.link)  # what they share must not change
    shutil.rmtree(tmp_path / "copy" / "3")
    (tmp_path / "copy" / "4" / "run.json").unlink()
    (tmp_path / "copy" / "study.journal").unlink()
    ended = run(tmp_path, "train", "-m", f"resume={tmp_path}/copy")
    assert ended.code == 0, ended.err
    assert [line for line in ended.out.splitlines() if line.startswith("training on")] != []
    assert table(tmp_path / "copy") == table(sweep)
    assert record(tmp_path / "copy" / "5") == record(sweep / "5")
    assert contents(sweep) == before


def test_a_failed_job_that_was_resumed_alone_counts_and_one_that_cannot_be_read_stops_no_other(tmp_path):
    rates = "optimizer.lr=0.000001,0.01,0.00001"
    arguments = [*sweep_arguments(tmp_path, rates), "sweep.objectives={val/loss:min}"]
    ended = run(tmp_path, "train", *arguments, prepare=fail_where_the_rate_is_high)
    sweep = only(tmp_path)
    assert ended.code == 1, ended.err
    assert statuses(sweep) == ["done", "failed", "done"]
    assert "best job 2: " in ended.out
    assert run(tmp_path, "train", f"resume={sweep}/1", "trainer.max_epochs=2").code == 0
    loss = record(sweep / "1")["metrics"]["best"]["val/loss"]
    again = run(tmp_path, "train", "-m", f"resume={sweep}")
    assert again.code == 0, again.err
    assert f"best job 1: val/loss {loss:.4g}, optimizer.lr=0.01 trainer.max_epochs=2\n" in again.out
    assert "3 jobs: 3 done\n" in again.out
    assert compare([sweep], "val/loss", "min").groups[0].main.mean == loss
    (file,) = (sweep / "experiment").iterdir()
    assert file.name == "job_1.yaml"
    again = run(tmp_path, "train", f"experiment={file}", "test=false", f"hydra.run.dir={tmp_path}/again")
    assert again.code == 0, again.err
    assert record(tmp_path / "again")["metrics"]["best"]["val/loss"] == loss

    (sweep / "0" / "run.json").write_text('{"version": 2, "status": "\x1b[2Jdone"}')
    shutil.rmtree(sweep / "2")
    ended = run(tmp_path, "train", "-m", f"resume={sweep}")
    assert (ended.code, ended.lines()[-1]) == (1, "train: 1 of 3 jobs is not done")
    assert "3 jobs: 1 damaged, 2 done\n" in ended.out
    assert "best job 1: " in ended.out
    assert f"remove{sweep}/0,andthejobisdoneagain" in "".join(ended.out.split())  # the table breaks lines
    assert record(sweep / "2")["status"] == "done"


def fail_where_the_rate_is_high():
    step = Classifier.training_step

    def training_step(module, batch, batch_idx):
        if module.trainer.optimizers[0].param_groups[0]["lr"] > 0.001 and module.trainer.global_step == 5:
            raise RuntimeError("once")
        return step(module, batch, batch_idx)

    Classifier.training_step = training_step


def leave_sweep(folder, *statuses, age=0):
    """A sweep of two jobs whose jobs are so, begun so many minutes ago."""
    folder.mkdir(parents=True)
    plan_of("seed=1,2").save(folder)
    for number, status in enumerate(statuses):
        (folder / str(number)).mkdir()
        started = datetime.now(UTC) - timedelta(minutes=age)
        (folder / str(number) / "run.json").write_text(said(status=status, started=started.isoformat()))
    return folder


@pytest.mark.parametrize(
    ("statuses", "is_unfinished"),
    [
        ([], True),
        (["done"], True),
        (["done", "running"], True),
        (["failed", "interrupted"], True),
        (["failed", "done"], False),
        (["pruned", "done"], False),
        (["of a newer version", "done"], False),
    ],
)
def test_last_is_the_newest_sweep_that_has_jobs_left_to_do(tmp_path, statuses, is_unfinished):
    sweeps = tmp_path / "train" / "multiruns"
    older = leave_sweep(sweeps / "b", "done", age=3)
    leave_sweep(sweeps / "c", "done", "done", age=2)
    newest = leave_sweep(tmp_path / "mine", *statuses, age=1)
    remember(newest, tmp_path)
    (sweeps / "d").mkdir()
    (sweeps / "d" / "plan.json").write_text("{")
    assert newest_sweep(tmp_path).folder == (newest if is_unfinished else older)
    lock = FolderLock(older)
    assert lock.acquire()
    if is_unfinished:
        assert newest_sweep(tmp_path).folder == newest
    else:
        with pytest.raises(UserError, match=r"^there is no unfinished sweep in .*; the newest one, .*/d, cannot go on"):
            newest_sweep(tmp_path)
    lock.release()


def test_what_is_in_a_reason_is_shown_as_it_is(tmp_path):
    broken = raise_where_the_seed_is({1}, RuntimeError("[/b] [red]odd\nand \x1b[1mmore"))
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2"), prepare=broken)
    assert ended.code == 1
    assert "0    failed  RuntimeError: [/b] [red]odd" in ended.out
    assert "\n              and \\x1b[1mmore" in ended.out


def test_a_new_sweep_needs_an_empty_folder(tmp_path):
    (tmp_path / "0").mkdir()
    ended = run(tmp_path, "train", "-m", "seed=1,2", *SHORT, f"hydra.sweep.dir={tmp_path}")
    assert (ended.code, ended.err) == (2, f"train: {tmp_path} is not empty: choose another folder\n")


def test_several_objectives(tmp_path):
    both = "sweep.objectives={val/acc:max,val/loss:min}"
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2", "optimizer.lr=0.001,0.01", both))
    assert ended.code == 0, ended.err
    assert "val/loss " in next(line for line in ended.out.splitlines() if line.startswith("best job "))


def test_a_dry_run_only_lists(tmp_path):
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2", "sweep.dry_run=true"))
    assert (ended.code, ended.out) == (0, "0: seed=1\n1: seed=2\n2 jobs\n")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m", "data.batch_size=50,0"], "train: data.batch_size=0: should be greater than 0 (job 1)"),
        (["-m", "sweep=tpe", "sweep.n_trials=0", "seed=1,2"], "train: sweep.n_trials=0: should be greater than 0"),
        (["-m", "sweep.zap=[]", "seed=1,2"], "train: sweep.zap=[]: no such key, did you mean sweep.zip?"),
        (["-m", "sweep.zip=[seed,x]", "seed=1,2"], "train: sweep.zip: x has not several values; there is seed"),
        (["-m", "launcher.n_jobs=2", "seed=1,2"], "train: launcher.n_jobs=2: no such key"),
        (
            ["-m", "launcher=local", "launcher.n_jobs=0", "seed=1,2"],
            "train: launcher.n_jobs=0: should be greater than 0",
        ),
        (["-m", "optimizer=adam,sdg"], "train: optimizer=sdg: no such option, did you mean optimizer=sgd?"),
        (["-m", "resume=nowhere"], "train: resume=nowhere: not a sweep's folder; it holds no plan.json"),
        (["-m", "resume=last"], "train: there is no unfinished sweep in "),
        (["sweep=tpe"], "train: sweep=tpe: is for a sweep; add -m, or leave it out"),
        (["-m", "hydra.sweep.dir=/proc/x", "seed=1,2"], "train: /proc/x cannot be used: "),
    ],
)
def test_a_mistake_is_told_in_one_line_and_no_folder_is_made(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    ended = run(tmp_path, "train", *arguments, f"paths.logs={tmp_path}/logs")
    assert ended.code == 2
    assert ended.err.startswith(line), ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_a_sweep_goes_on_only_as_what_it_was(tmp_path):
    drawn = sweep_arguments(tmp_path, "sweep=random", "optimizer.lr=interval(0.001,0.1)")
    assert run(tmp_path, "train", *drawn, "sweep.n_trials=2").code == 0
    resume = f"resume={only(tmp_path)}"
    other = run(tmp_path, "train", *drawn, "sweep.n_trials=2", "optimizer=sgd", resume)
    assert other.code == 2
    assert "was planned with other settings than these" in other.err
    assert run(tmp_path, "train", *drawn, "sweep.n_trials=3", resume).code == 0
    assert statuses(only(tmp_path)) == ["done"] * 3
    listed = run(tmp_path, "train", "-m", resume, "sweep=random", "sweep.n_trials=4", "sweep.dry_run=true")
    assert (listed.code, listed.out.splitlines()[-1]) == (0, "4 jobs")
    assert run(tmp_path, "train", "-m", resume, "sweep=random", "sweep.n_trials=4").code == 0
    assert statuses(only(tmp_path)) == ["done"] * 4
    assert run(tmp_path, "train", *drawn, "sweep.n_trials=2", resume).code == 2


def test_a_sweep_from_somebody_else_runs_nothing(tmp_path):
    stop = at("on_train_epoch_end", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run(tmp_path, "train", *sweep_arguments(tmp_path, "optimizer.lr=0.1,0.2", "seed=1"), prepare=stop)
    sweep = only(tmp_path)
    mine = {file: file.read_text() for file in (sweep / "plan.json", sweep / "0" / "config.yaml")}
    for file, text in mine.items():
        file.write_text(text.replace("digits.mnist.MNISTDataModule", "os.system"))
        ended = run(tmp_path, "train", "-m", f"resume={sweep}")
        assert ended.code == 2
        assert f"{file.name} was made elsewhere" in ended.err
        assert len(ended.lines()) == 1
        assert statuses(sweep)[1:] in ([], ["not begun"])
        file.write_text(text)
    assert run(tmp_path, "train", "-m", f"resume={sweep}").code == 0
    assert statuses(sweep) == ["done", "done"]


def test_jobs_of_several_processes_run_once_each(tmp_path):
    """Lightning's own processes would each run the whole sweep again."""

    def prune_the_first():
        forking_others()
        litlab.sweeps.pruner.Pruner.__call__ = lambda pruner, *_: pruner._trial.number == 0

    arguments = sweep_arguments(tmp_path, "trainer.devices=2,1", "seed=1,2", "sweep.pruner=median")
    done = run(tmp_path, "train", *arguments, prepare=prune_the_first)
    assert (done.code, done.err) == (0, "")
    assert statuses(only(tmp_path)) == ["pruned", "done", "done", "done"]
    devices = [record(only(tmp_path) / str(job))["device"] for job in range(4)]
    assert [device.startswith("2 processes") for device in devices] == [True, True, False, False]
    accuracies = [record(only(tmp_path) / str(job))["metrics"]["best"]["val/acc"] for job in (1, 3)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)  # in bfloat16, where there is such


@pytest.mark.slow
def test_jobs_at_once_may_be_of_several_processes(tmp_path):
    arguments = sweep_arguments(tmp_path, "trainer.devices=2", "seed=1,2", "launcher=local")
    done = run(tmp_path, "train", *arguments)
    assert (done.code, done.err) == (0, "")
    assert statuses(only(tmp_path)) == ["done", "done"]
    assert record(only(tmp_path) / "0")["device"].startswith("2 processes")


def test_each_job_at_once_has_its_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    slots = litlab.sweeps.launchers.local.Local(n_jobs=2, jobs_per_device=1)._slots(True)
    assert [slot.cores for slot in slots] == [{0, 2, 4}, {1, 3}]
    many = litlab.sweeps.launchers.local.Local(n_jobs=7, jobs_per_device=1)._slots(True)
    assert [len(slot.cores) for slot in many] == [1] * 7
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    gpus = litlab.sweeps.launchers.local.Local(n_jobs=9, jobs_per_device=2)._slots(True)
    assert [slot.gpu for slot in gpus] == ["0", "1", "0", "1"]
    cpu = litlab.sweeps.launchers.local.Local(n_jobs=9, jobs_per_device=2)._slots(uses_gpus=False)
    assert [slot.gpu for slot in cpu] == [None] * 9
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-x")
    assert [slot.gpu for slot in litlab.sweeps.launchers.local.Local(3, 2)._slots(True)] == ["2", "GPU-x", "2"]
