import os
import signal
import subprocess
import sys
import time

from litlab.files import new_folder, write_text


def test_replaces_the_text_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "run.json"
    write_text(file, "old")
    write_text(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_kill_at_any_moment_leaves_the_file_whole(tmp_path):
    file = tmp_path / "run.json"
    code = (
        "import sys; from pathlib import Path; from litlab.files import write_text\n"
        "number = 0\n"
        "while True:\n"
        "    write_text(Path(sys.argv[1]), str(number) * 100_000)\n"
        "    number = (number + 1) % 10"
    )
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(file)])
        while not file.exists():
            time.sleep(0.01)
        time.sleep(0.02 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        text = file.read_text()
        assert len(text) == 100_000
        assert len(set(text)) == 1


def test_new_folders_are_named_by_the_time_and_never_shared(tmp_path):
    folders = [new_folder(str(tmp_path / "runs")) for _ in range(5)]
    assert len(set(folders)) == 5
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(
        folder.rpartition("/")[2] for folder in folders
    )


def test_processes_that_ask_in_the_same_instant_get_a_folder_each(tmp_path):
    code = (
        "import multiprocessing, sys; from litlab.files import new_folder\n"
        "def ask():\n"
        "    barrier.wait()\n"
        "    open(new_folder(sys.argv[1]) + '/mine', 'x')\n"
        "context = multiprocessing.get_context('fork'); barrier = context.Barrier(32)\n"
        "processes = [context.Process(target=ask) for _ in range(32)]\n"
        "[process.start() for process in processes]; [process.join() for process in processes]\n"
        "sys.exit(sum(process.exitcode for process in processes))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs")], check=True, timeout=60)
    assert len(list((tmp_path / "runs").glob("*/mine"))) == 32
