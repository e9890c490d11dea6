"""A disk or a file system that fails while a sweep is at work is nobody's fault: the sweep stops, and goes on."""

import errno
import os

import pytest
from conftest import SHORT
from multiruns import only, record, statuses, sweep_arguments, table
from optuna.storages.journal import JournalFileBackend
from processes import run

import litlab.job_log
import litlab.loggers
import litlab.sweeps.sweep
import litlab.training.train
from digits.classifier import Classifier
from digits.mnist import MNISTDataModule
from litlab import files
from litlab.errors import UserError
from litlab.runs.storage_faults import STORAGE_FAULTS, storage_fault, storage_problem
from litlab.runs.writing import AtomicCheckpointIO

JOBS = ("optimizer.lr=0.001,0.003,0.01", "checkpoint.every_n_steps=10")
NAMED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EFBIG)


def once(owner, name, number, call, file=None):
    """What makes a call of a function fail, the first being 1, and no other."""

    def prepare():
        original, calls = getattr(owner, name), []

        def failing(*arguments, **settings):
            calls.append(arguments)
            if len(calls) == call:
                raise OSError(number, os.strerror(number), *([file] if file else []))
            return original(*arguments, **settings)

        setattr(owner, name, failing)

    return prepare


FAULTS = {
    "the log": once(litlab.job_log, "dictConfig", errno.EROFS, 2),
    "the record of a new run": once(litlab.runs.run, "write_text", errno.ENOSPC, 6),
    "a checkpoint": once(AtomicCheckpointIO, "save_checkpoint", errno.EDQUOT, 7),
    "a file on its way to the disk": once(files, "sync", errno.EIO, 40),
    "the curves": once(litlab.loggers._Events, "flush", errno.EFBIG, 10),
    "the data": once(MNISTDataModule, "setup", errno.ESTALE, 3, "/mnt/gone/images"),
    "the user's own code": once(Classifier, "training_step", errno.ENOTCONN, 30),
    "the study": once(JournalFileBackend, "append_logs", errno.ENOSPC, 4),
    "the config of a job": once(litlab.sweeps.sweep, "write_text", errno.EROFS, 2),
}

AT_ONCE = ("a checkpoint", "the study", "the data")
"""The others take minutes."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mnist_dir):
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = run(folder, "train", *sweep_arguments(folder, *JOBS))
    assert ended.code == 0, ended.err
    return table(only(folder))


@pytest.mark.parametrize(
    "place", [place if place in AT_ONCE else pytest.param(place, marks=pytest.mark.slow) for place in FAULTS]
)
def test_the_sweep_stops_and_goes_on_exactly(undisturbed, tmp_path, place):
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, *JOBS), prepare=FAULTS[place])
    sweep = only(tmp_path)
    assert ended.code == 2, ended.out
    assert len(ended.lines()) == 1, ended.err
    assert ended.err.endswith(f", go on with: python -m litlab train -m resume={sweep}\n")
    assert "failed" not in statuses(sweep)
    assert statuses(sweep)[:-1] in ([], ["done"], ["done", "done"])  # no other was begun
    again = run(tmp_path, "train", "-m", f"resume={sweep}")
    assert again.code == 0, again.err
    assert statuses(sweep) == ["done"] * 3
    assert table(sweep) == undisturbed


def test_a_single_run_is_interrupted_too(tmp_path, mnist_dir):
    folder, fault = tmp_path / "run", once(MNISTDataModule, "setup", errno.EIO, 1, "/mnt/gone/images")
    ended = run(tmp_path, "train", *SHORT, f"hydra.run.dir={folder}", prepare=fault)
    assert ended.code == 2
    assert ended.err.startswith("train: /mnt/gone/images cannot be used: Input/output error; what was saved before is ")
    assert record(folder)["status"] == "interrupted"
    assert record(folder)["reason"] == "/mnt/gone/images cannot be used: Input/output error"


def chained(error, *causes):
    for outer, inner in zip((error, *causes), causes, strict=False):
        outer.__cause__ = inner
    return error


@pytest.mark.parametrize("number", NAMED)
def test_what_is_the_machines_fault(tmp_path, number):
    reason = os.strerror(number)
    for error in (
        OSError(number, reason),
        OSError(number, reason, "/elsewhere/file"),
        OSError(f"Caught OSError in DataLoader worker process 0.\n  …\nOSError: [Errno {number}] {reason}: 'a.png'"),
        chained(RuntimeError("cannot read"), ValueError("no picture"), OSError(number, reason)),
        chained(UserError("a.png cannot be read"), OSError(number, reason)),
    ):
        fault = storage_fault(error, tmp_path)
        assert fault is not None
        problem, _ = storage_problem(error, fault, tmp_path)
        assert reason in problem or problem == "a.png cannot be read"
    assert number in STORAGE_FAULTS


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/file"),
        PermissionError(errno.EACCES, "Permission denied"),
        chained(UserError("no config"), FileNotFoundError(errno.ENOENT, "No such file or directory", "file")),
        RuntimeError("out of memory"),
        MemoryError(),
        OSError("no number"),
        OSError(errno.EBADF, "Bad file descriptor", 7),
    ],
)
def test_what_is_not(tmp_path, error):
    assert storage_fault(error, tmp_path) is None


def test_in_the_runs_folder_whatever_fails_is_the_storages(tmp_path):
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "checkpoints" / "last.ckpt"))
    assert storage_fault(error, tmp_path) is error
    assert storage_problem(error, error, tmp_path)[0] == f"{tmp_path} cannot be written: No such file or directory"
