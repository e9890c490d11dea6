import os
import signal
import subprocess
import sys
import time

from litlab.runs.files import write_text


def test_replaces_the_text_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "run.json"
    write_text(file, "old")
    write_text(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_kill_at_any_moment_leaves_the_file_whole(tmp_path):
    file = tmp_path / "run.json"
    code = (
        "import sys; from pathlib import Path; from litlab.runs.files import write_text\n"
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
