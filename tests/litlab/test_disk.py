import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import SHORT
from processes import FORK, Process, at, contents, run

from litlab.errors import UserError
from litlab.files import new_folder
from litlab.runs.checkpoint import read
from litlab.runs.run import Run

pytestmark = pytest.mark.usefixtures("mnist_dir")

MANY_EPOCHS = (*SHORT, "trainer.max_epochs=200", "data.batch_size=10", "logger=[tensorboard,csv]")


def record(folder):
    return json.loads((folder / "run.json").read_text())


@contextmanager
def mounted(folder, options):
    """A file system of its own in `folder`."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [100, 600, 1000, 1200])
def test_a_full_disk_is_told_and_what_was_saved_is_whole(tmp_path, kilobytes):
    with mounted(tmp_path / "small", f"size={kilobytes}k") as small:
        folder = small / "run"
        ended = run(tmp_path, "train", *MANY_EPOCHS, f"hydra.run.dir={folder}")
        assert ended.code == 2
        assert ended.err == (
            f"train: {folder} cannot be written: No space left on device; what was saved before is whole; "
            f"once there is room, go on with: python -m litlab train resume={folder}\n"
        )
        assert record(folder)["status"] in ("interrupted", "running")  # of a record there was no room for
        checkpoints = list((folder / "checkpoints").iterdir())
        assert all(read(file)["state_dict"] for file in checkpoints)
        assert {file.name for file in checkpoints} <= {"last.ckpt", "best.ckpt"}
        shutil.copytree(folder, tmp_path / "roomier")
    done = run(tmp_path, "train", f"resume={tmp_path}/roomier", "trainer.max_time=00:00:00:05", "resume.force=true")
    assert done.code == 0, done.err


def test_a_disk_that_is_full_only_at_the_end_is_told_too(tmp_path):
    with mounted(tmp_path / "small", "size=1500k") as small:
        folder = small / "run"
        ended = run(tmp_path, "train", *SHORT, "views=projector", f"hydra.run.dir={folder}")
        assert ended.code == 2, ended.err
        assert ended.err.startswith(f"train: {folder} cannot be written: No space left on device; ")
        assert len(ended.lines()) == 1
        assert record(folder)["status"] in ("interrupted", "running")  # of a record there was no room for


def test_a_folder_that_is_read_only_is_told_before_anything_is_done(tmp_path):
    folder = tmp_path / "small" / "run"
    with mounted(tmp_path / "small", "size=20m") as small:
        killed = run(tmp_path, "train", *SHORT, f"hydra.run.dir={folder}", prepare=at("on_train_epoch_end"))
        assert killed.code == -signal.SIGKILL
        before = contents(small)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        for arguments in ([f"resume={folder}"], [*SHORT, f"hydra.run.dir={small}/new"]):
            ended = run(tmp_path, "train", *arguments)
            assert ended.code == 2
            assert ended.err.endswith(" cannot be used: Read-only file system\n")
            assert len(ended.lines()) == 1
        assert contents(small) == before


def test_a_folder_that_vanishes_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    process = Process(tmp_path, "train", *MANY_EPOCHS, f"hydra.run.dir={folder}")
    process.wait_for((folder / "checkpoints" / "last.ckpt").exists)
    shutil.move(folder, tmp_path / "elsewhere")
    ended = process.end()
    assert ended.code == 2
    assert ended.err.startswith(f"train: {folder} cannot be written: No such file or directory; ")
    assert len(ended.lines()) == 1
    assert not folder.exists()
    assert read(tmp_path / "elsewhere" / "checkpoints" / "last.ckpt")["state_dict"]
    moved = run(
        tmp_path, "train", f"resume={tmp_path}/elsewhere", "trainer.max_epochs=201", prepare=at("on_train_epoch_end")
    )
    assert moved.code == -signal.SIGKILL


def claim(folder, barrier, claimed):
    """Ask for one and the same folder in the same instant as others."""
    barrier.wait()
    try:
        Run.create(folder, seed=0)
    except UserError:
        return
    with claimed.get_lock():
        claimed.value += 1
    barrier.wait()  # the claim is held


def test_of_processes_that_want_the_same_folder_one_gets_it(tmp_path):
    barrier, claimed = FORK.Barrier(32), FORK.Value("i", 0)
    processes = [FORK.Process(target=claim, args=(tmp_path, barrier, claimed)) for _ in range(32)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(2)
    assert claimed.value == 1
    for process in processes:
        process.kill()


def train_at_once(logs, barrier):
    barrier.wait()
    folder = Path(new_folder(str(logs)))
    Run.create(folder, seed=os.getpid())
    assert record(folder)["seed"] == os.getpid()


def test_32_runs_started_in_the_same_instant_have_32_folders(tmp_path):
    barrier = FORK.Barrier(32)
    processes = [FORK.Process(target=train_at_once, args=(tmp_path, barrier)) for _ in range(32)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 32
    seeds = {record(folder)["seed"] for folder in tmp_path.iterdir()}
    assert seeds == {process.pid for process in processes}


def test_a_run_touches_nothing_outside_its_folder(tmp_path):
    beside = tmp_path / "logs" / "train" / "runs" / "another"
    beside.mkdir(parents=True)
    torch.save({"weights": torch.zeros(3)}, beside / "last.ckpt")
    before = contents(tmp_path / "logs")
    arguments = [*SHORT, "trainer.max_epochs=3", "checkpoint.every_n_steps=5"]
    killed = run(tmp_path, "train", *arguments, f"paths.logs={tmp_path}/logs", prepare=at("on_train_epoch_end", 2))
    assert killed.code == -signal.SIGKILL
    assert run(tmp_path, "train", f"paths.logs={tmp_path}/logs", "resume=last").code == 0
    (own,) = (folder for folder in beside.parent.iterdir() if folder != beside)
    after = contents(tmp_path / "logs")
    assert {file: content for file, content in after.items() if not file.is_relative_to(own)} == before
    names = {str(file.relative_to(own)) for file in own.rglob("*") if file.is_file() and "tfevents" not in file.name}
    assert names == {".lock", "config.yaml", "run.json", "train.log", "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
