import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios

import pytest
from conftest import SHORT

pytestmark = pytest.mark.usefixtures("mnist_dir")


def on_terminal(folder, *arguments):
    """What `train` writes to a terminal of 140 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "litlab", "train", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
        env=os.environ | {"LITLAB_LOGS": str(folder / "logs"), "COLUMNS": "160", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how Linux says that the other side is closed
        pass
    assert process.wait(60) == 0, written
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())


@pytest.mark.slow
def test_a_terminal_shows_a_panel_a_bar_and_the_results(tmp_path):
    text = on_terminal(tmp_path, *SHORT, "trainer.limit_train_batches=100", "trainer.limit_test_batches=2")
    assert "╭─ training on cpu" in text
    assert re.search(r"100/100 .* train/loss: \d\.\d+ train/acc: \d\.\d+ .*examples/s: [\d,]+", text)
    assert re.search(r"\d:\d\d:\d\d • \d:\d\d:\d\d", text)  # gone, and left
    assert "no CUDA graph: this is a cpu\r\n" in text  # on a line of its own
    for digit in range(10):
        assert re.search(rf"test/acc of {digit}  [01]\.\d{{4}}\r\n", text)
    (run,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert f"curves:  tensorboard --logdir {run.parent}" in text
    log = (run / "train.log").read_text()
    assert "\x1b" not in log
    assert "test/acc of 9" in log


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(command, tmp_path):
    process = command("train", *SHORT, "trainer.max_epochs=2")
    assert process.returncode == 0, process.stderr
    assert "\r" not in process.stdout
    assert "\x1b" not in process.stdout
    lines = process.stdout.splitlines()
    assert any(line.startswith("training on cpu (") for line in lines[:2])  # after what was chosen as precision
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 0", "epoch 1"]


DEBUGGED = """
import sys
import digits.classifier
from litlab.cli import train

step = digits.classifier.Classifier.training_step

def training_step(self, batch, batch_idx):
    if batch_idx == 3:
        {how}
    return step(self, batch, batch_idx)

digits.classifier.Classifier.training_step = training_step
train()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["breakpoint()", "import pdb; pdb.set_trace()"])
def test_a_debugger_has_the_terminal_and_ctrl_c(tmp_path, how):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DEBUGGED.format(how=how), *SHORT, "test=false", f"hydra.run.dir={tmp_path}/run"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"COLUMNS": "160", "TERM": "xterm"},
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    read_until(ours, b"(Pdb) ")
    os.write(ours, b"p batch_idx * 14\n")
    answer = read_until(ours, b"(Pdb) ")
    assert b"42\r\n" in answer
    assert select.select([ours], [], [], 1.5)[0] == []  # the bar is still
    os.write(ours, b"\x03")
    assert b"KeyboardInterrupt" in read_until(ours, b"(Pdb) ")
    os.write(ours, b"c\n")
    rest = read_until(ours, b"curves: ")
    assert b"20/20" in rest
    assert process.wait(60) == 0


def read_until(terminal, text):
    """What is written to the terminal until this text has come."""
    written = b""
    while text not in written:
        assert select.select([terminal], [], [], 60)[0], written.decode()
        written += os.read(terminal, 65536)
    return written
