import json
import multiprocessing.context
import os
import signal
import time
from functools import partial

import pytest
from conftest import SHORT
from processes import Process, run, script

import litlab.distributed.signals
from digits.mnist import MNISTDataModule
from litlab.callbacks.checkpoints import Checkpoints
from litlab.runs.checkpoint import read
from litlab.runs.run import Run

pytestmark = pytest.mark.usefixtures("mnist_dir")

LONG = (
    *SHORT, "trainer.max_epochs=3", "trainer.limit_train_batches=200", "trainer.steps_per_execution=50",
    "trainer.num_sanity_val_steps=0", "data.batch_size=10",
)  # fmt: skip


def record(folder):
    return json.loads((folder / "run.json").read_text())


def slowly():
    """Make each step take a tenth of a second, so that a signal comes in the middle of one."""
    from digits.classifier import Classifier

    step = Classifier.training_step

    def slow_step(module, batch, batch_idx):
        time.sleep(0.1)
        return step(module, batch, batch_idx)

    Classifier.training_step = slow_step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, "train", *LONG, f"hydra.run.dir={folder}/run").code == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)],
)
def test_a_signal_stops_after_the_step_and_the_run_goes_on_exactly(undisturbed, tmp_path, number, code):
    folder = tmp_path / "run"
    default = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    process = Process(tmp_path, "train", *LONG, f"hydra.run.dir={folder}", prepare=default)
    process.wait_for((folder / "checkpoints" / "best.ckpt").exists)
    time.sleep(0.05)
    process.send(number)
    ended = process.end()
    assert ended.code == code
    assert ended.err == f"train: stopped by {number.name}\n"
    command = Run.open(folder).resume_command.partition("resume=")[2]
    assert f"stopped by {number.name}; to go on: python -m litlab train resume={command}" in ended.out
    assert (record(folder)["status"], record(folder)["reason"]) == ("interrupted", number.name)
    assert record(folder)["metrics"]["test"] == {}
    assert run(tmp_path, "train", f"resume={folder}").code == 0
    torture = script("dev/kill_and_resume")
    assert torture.compare_weights(undisturbed, folder) == []
    assert torture.events(undisturbed) == torture.events(folder)


def test_a_training_outlives_its_terminal_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with litlab.distributed.signals.StopRequest().listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_that_is_told_twice_still_stops_in_order(monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    request = litlab.distributed.signals.StopRequest()
    try:
        with request.listening():
            request.deferred = True
            for number in (signal.SIGHUP, signal.SIGHUP):
                os.kill(os.getpid(), number)
            assert (request.received, left) == (signal.SIGHUP, [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert left == [129]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_takes_no_more_than_a_step(tmp_path):
    folder = tmp_path / "run"
    process = Process(
        tmp_path, "train", *LONG, f"hydra.run.dir={folder}", "trainer.num_sanity_val_steps=0", prepare=slowly
    )
    process.wait_for(lambda: "training on" in process.out.read_text())
    time.sleep(1.5)
    begun = time.monotonic()
    process.send(signal.SIGTERM)
    assert process.end().code == 143
    assert time.monotonic() - begun < 2  # an execution is 50 steps of a tenth of a second
    assert 0 < read(folder / "checkpoints" / "last.ckpt")["global_step"] < 50


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_is_whole(tmp_path):
    folder = tmp_path / "run"

    def stuck():
        def wait(*_):
            (tmp_path / "stuck").touch()
            time.sleep(60)

        Checkpoints.on_validation_end = wait

    process = Process(
        tmp_path, "train", *LONG, f"hydra.run.dir={folder}", "trainer.num_sanity_val_steps=0", prepare=stuck
    )
    process.wait_for((tmp_path / "stuck").exists)
    process.send(signal.SIGTERM)
    time.sleep(0.3)
    assert process.process.is_alive()
    process.send(signal.SIGINT)
    assert process.end().code == 143
    assert read(folder / "checkpoints" / "last.ckpt")["global_step"] == 200
    assert run(tmp_path, "train", f"resume={folder}").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("worker", [1, 2, 3])  # of the check before training, of the training, of the validation
def test_a_signal_to_all_processes_while_a_worker_starts_stops_the_training_alone(tmp_path, worker):
    folder = tmp_path / "run"
    workers = ["data.loader=workers", "data.num_workers=1", f"hydra.run.dir={folder}", "trainer.num_sanity_val_steps=1"]

    def interrupt_the_start():
        os.setsid()
        start = multiprocessing.context.Process.start
        started = []

        def interrupted_start(process):
            start(process)
            started.append(process)
            if len(started) == worker:
                os.killpg(0, signal.SIGINT)

        multiprocessing.context.Process.start = interrupted_start

    ended = run(tmp_path, "train", *LONG, *workers, prepare=interrupt_the_start)
    assert (ended.code, ended.err) == (130, "train: stopped by SIGINT\n")
    assert record(folder)["status"] == "interrupted"
    assert run(tmp_path, "train", f"resume={folder}").code == 0


def test_gradients_that_are_being_accumulated_are_finished_first(tmp_path):
    folder = tmp_path / "run"
    many = ["trainer.accumulate_grad_batches=20", "trainer.steps_per_execution=1", f"hydra.run.dir={folder}"]
    process = Process(tmp_path, "train", *LONG, *many, prepare=slowly)
    process.wait_for(lambda: "training on" in process.out.read_text())
    time.sleep(1)
    process.send(signal.SIGTERM)
    assert process.end().code == 143
    assert read(folder / "checkpoints" / "last.ckpt")["global_step"] in (1, 2)


def test_in_a_validation_it_stops_there_and_the_validation_is_done_again(tmp_path):
    folder = tmp_path / "run"

    def slow_validation():
        from digits.classifier import Classifier

        def wait(*_):
            (tmp_path / "validating").touch()
            time.sleep(0.2)

        Classifier.on_validation_batch_end = wait

    many = [*LONG, "trainer.max_epochs=1", "trainer.limit_val_batches=200", "data.eval_batch_size=10"]
    process = Process(tmp_path, "train", *many, f"hydra.run.dir={folder}", prepare=slow_validation)
    process.wait_for((tmp_path / "validating").exists)
    begun = time.monotonic()
    process.send(signal.SIGTERM)
    assert process.end().code == 143
    assert time.monotonic() - begun < 5
    assert record(folder)["metrics"]["best"] == {}
    assert run(tmp_path, "train", f"resume={folder}").code == 0
    assert record(folder)["metrics"]["best"]["val/acc"] > 0.4


def test_before_the_training_it_stops_at_once(tmp_path):
    def download_forever():
        def wait(self):
            (tmp_path / "downloading").touch()
            time.sleep(60)

        MNISTDataModule.prepare_data = wait

    process = Process(tmp_path, "train", *SHORT, f"hydra.run.dir={tmp_path}/run", prepare=download_forever)
    process.wait_for((tmp_path / "downloading").exists)
    process.send(signal.SIGINT)
    assert process.end().code == 130
    assert record(tmp_path / "run")["status"] == "interrupted"
    assert run(tmp_path, "train", f"resume={tmp_path}/run").code == 0


def test_a_multirun_stops_with_its_job(tmp_path):
    process = Process(tmp_path, "train", "-m", "seed=1,2,3", *LONG, f"paths.logs={tmp_path}/logs")
    jobs = tmp_path / "logs" / "train" / "multiruns"
    process.wait_for(lambda: list(jobs.glob("*/1/checkpoints/last.ckpt")))
    process.send(signal.SIGINT)
    ended = process.end()
    assert ended.code == 130
    (sweep,) = jobs.iterdir()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1"]
    assert [record(sweep / job)["status"] for job in ("0", "1")] == ["done", "interrupted"]


def test_a_run_by_itself_leaves_signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with litlab.distributed.signals.StopRequest().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
