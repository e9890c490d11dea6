import os
import time

import pytest
from processes import FORK

from litlab.errors import UserError
from litlab.runs.lock import FolderLock
from litlab.runs.run import Run


def ask(folder, asked, until):
    """Ask again and again whether the run is alive."""
    run = Run.open(folder)
    while not until.is_set():
        run.is_alive()
        asked.value += 1


def test_asking_keeps_nobody_from_the_folder(tmp_path):
    Run.create(tmp_path, seed=1)._lock.release()
    asked, until = FORK.Value("i", 0), FORK.Event()
    processes = [FORK.Process(target=ask, args=(tmp_path, asked, until)) for _ in range(3)]
    for process in processes:
        process.start()
    refusals, deadline = 0, time.monotonic() + 60
    while asked.value < 1000 and time.monotonic() < deadline:
        lock = FolderLock(tmp_path)
        refusals += not lock.acquire()
        lock.release()
    until.set()
    for process in processes:
        process.join(60)
    assert (refusals, asked.value >= 1000) == (0, True)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_asking_and_taking_write_nothing(tmp_path, link):
    (tmp_path / "precious").write_text("precious")
    link(tmp_path / "precious", tmp_path / ".lock")
    lock = FolderLock(tmp_path)
    assert not lock.is_held()
    assert lock.acquire()
    assert (tmp_path / "precious").read_text() == "precious"


def hold(folder, held, until):
    lock = FolderLock(folder)
    assert lock.acquire()
    held.set()
    until.wait(60)
    os._exit(0)


def test_a_folder_in_use_is_refused_at_once_and_free_once_its_process_has_ended(tmp_path):
    Run.create(tmp_path, seed=1)._lock.release()
    held, until = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, held, until))
    process.start()
    assert held.wait(60)
    run = Run.open(tmp_path)
    assert run.is_alive()
    with pytest.raises(UserError, match="is in use: another process is at work on this run"):
        run.claim()
    process.kill()
    process.join(60)
    assert not run.is_alive()
    run.claim()
    run.claim()
    assert Run.open(tmp_path).is_alive()
    run._lock.release()
    assert not Run.open(tmp_path).is_alive()
