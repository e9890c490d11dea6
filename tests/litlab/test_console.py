"""What a command does whose input, output, environment or file names are not what one expects."""

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SHORT
from PIL import Image
from processes import run

from litlab.console import Channel, LogFormatter, csv_text
from litlab.distributed import processes
from litlab.errors import StorageError, UserError
from litlab.messages import visible

HOSTILE = "a\x1b[31mb\r\x85\u2028\u202e\udcff\nforged: line"
SHOWN = r"a\x1b[31mb\r\x85\u2028\u202e\udcff\nforged: line"


def lead_to(number, open_other):
    """What makes a standard stream of the process lead elsewhere."""

    def prepare():
        other = open_other()
        os.dup2(other, number)
        stream = os.fdopen(number, "r" if number == 0 else "w")
        setattr(sys, ["stdin", "stdout", "stderr"][number], stream)

    return prepare


def no_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full():
    return os.open("/dev/full", os.O_WRONLY)


def closed(*numbers):
    """What closes standard streams, as a shell does by >&-; Python then has none."""

    def prepare():
        for number in numbers:
            os.close(number)
            setattr(sys, ["stdin", "stdout", "stderr"][number], None)

    return prepare


CHANNELS = {
    "closed": closed(1),
    "all closed": closed(0, 1, 2),
    "full": lead_to(1, full),
    "not read": lead_to(1, no_reader),
    "errors not read": lead_to(2, no_reader),
    "errors closed": closed(2),
    "no input": closed(0),
}


@pytest.mark.usefixtures("mnist_dir")
@pytest.mark.parametrize("channel", CHANNELS)
def test_a_training_needs_nobody_to_read_its_output(tmp_path, channel):
    folder = tmp_path / "run"
    ended = run(tmp_path, "train", *SHORT, "logger=none", f"hydra.run.dir={folder}", prepare=CHANNELS[channel])
    assert (ended.code, ended.err) == (0, "")
    log = (folder / "train.log").read_text().splitlines()
    assert "training on" in "".join(log[:3])
    assert log[-2].endswith(f"results: {folder}")
    assert json.loads((folder / "run.json").read_text())["status"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_dir")
@pytest.mark.parametrize("launcher", ["basic", "local"])
@pytest.mark.parametrize("channel", ["closed", "not read"])
def test_a_sweep_needs_nobody_to_read_its_output(tmp_path, launcher, channel):
    arguments = ["-m", *SHORT, "logger=none", "seed=1,2", f"launcher={launcher}", f"hydra.sweep.dir={tmp_path}/sweep"]
    assert run(tmp_path, "train", *arguments, prepare=CHANNELS[channel]).code == 0
    statuses = [json.loads((tmp_path / "sweep" / job / "run.json").read_text())["status"] for job in "01"]
    assert statuses == ["done", "done"]


SEVEN = f"input={ROOT}/docs/seven.png"


@pytest.mark.parametrize(
    ("channel", "arguments", "code", "line"),
    [
        ("full", ["compare", "RUN"], 2, "standard output cannot be written: No space left on device"),
        ("not read", ["compare", "RUN"], 0, ""),
        ("closed", ["compare", "RUN"], 2, "standard output cannot be written: it is closed"),
        ("closed", ["predict", "run=RUN", SEVEN], 2, "standard output cannot be written: it is closed"),
        ("all closed", ["predict", "run=RUN", "input=-"], 2, ""),
        ("no input", ["predict", "run=RUN", "input=-"], 2, "-: is empty"),
        ("all closed", ["compare", "nowhere"], 2, ""),
    ],
)
def test_a_document_that_cannot_be_written_is_told(tmp_path, a_run, channel, arguments, code, line):
    command, *others = [text.replace("RUN", str(a_run)) for text in arguments]
    ended = run(tmp_path, command, *others, prepare=CHANNELS[channel])
    assert (ended.code, ended.err) == (code, f"{command}: {line}\n" if line else "")


def test_a_channel_takes_what_its_encoding_cannot_say():
    written = io.BytesIO()
    channel = Channel(io.TextIOWrapper(written, encoding="ascii"))
    print("é ✓ \udcff", file=channel, flush=True)
    assert written.getvalue() == rb"\xe9 \u2713 \udcff" + b"\n"
    assert channel.failed is None


def test_nothing_that_is_quoted_moves_the_cursor_or_forges_a_line():
    assert visible(HOSTILE) == SHOWN
    assert visible("é ✓ 数 \\n") == "é ✓ 数 \\n"
    assert str(UserError(HOSTILE)) == SHOWN
    assert str(UserError("one", HOSTILE)) == f"one\n{SHOWN}"
    assert str(StorageError(HOSTILE, "do")) == f"{SHOWN}; do"
    formatter = LogFormatter("%(message)s")
    record = logging.LogRecord("x", logging.INFO, "x", 1, "two\nlines of %s and %d", (HOSTILE, 3), None)
    assert formatter.format(record) == f"two\nlines of {SHOWN} and 3"


def test_csv_is_exact_for_programs_and_visible_on_a_terminal(monkeypatch):
    rows = [["file", HOSTILE], [None, 0.5]]
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""))) == [["file", HOSTILE], ["", "0.5"]]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert csv_text(rows) == f"file,{SHOWN}\n,0.5"


FORGING = "c\n\x1b[31mforged.png"


def test_names_of_files_stay_in_their_line(tmp_path, a_run, test_set):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(test_set[0][0].reshape(28, 28).numpy()).save(folder / FORGING)
    (folder / os.fsdecode(b"d\xff\n.png")).write_bytes(b"no picture")
    where = ["predict", f"run={a_run}", f"input={folder}"]
    for form in ("table", "csv", "json"):
        ended = run(tmp_path, *where, f"format={form}")
        assert (ended.code, ended.err) == (1, rf"predict: {folder}/d\udcff\n.png: is not an image" + "\n")
        if form == "table":
            assert ended.out.splitlines()[1].startswith(rf"{folder}/c\n\x1b[31mforged.png")
        elif form == "csv":
            (row,) = csv.DictReader(io.StringIO(ended.out, newline=""))
            assert row["file"] == str(folder / FORGING)
        else:
            assert json.loads(ended.out)[0]["file"] == str(folder / FORGING)


def test_what_a_record_says_stays_in_its_line(tmp_path, a_run):
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["model"][HOSTILE.replace("\udcff", "")] = 1
    (folder / "run.json").write_text(json.dumps(record))
    (tmp_path / FORGING).mkdir()
    (tmp_path / FORGING / "run.json").write_text("{")
    for form in ("table", "markdown"):
        ended = run(tmp_path, "compare", tmp_path, a_run, f"format={form}")
        assert ended.code == 0, ended.err
        assert SHOWN.replace(r"\udcff", "") in ended.out.replace(" ", "").replace("forged:line", "forged: line")
        assert visible(ended.out + ended.err, "\n") == ended.out + ended.err
        assert not any(line.lstrip().startswith("forged") for line in (ended.out + ended.err).splitlines())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, processes.SINGLE_PROCESS),
        ({"RANK": "3"}, processes.SINGLE_PROCESS),
        ({"RANK": "0", "WORLD_SIZE": ""}, processes.SINGLE_PROCESS),
        ({"RANK": "0", "WORLD_SIZE": "1"}, processes.SINGLE_PROCESS),
        ({"RANK": "1", "WORLD_SIZE": "2"}, processes.Rank(1, 2, 0, 1)),
        ({"RANK": "abc", "WORLD_SIZE": "2"}, "RANK=abc: is not a number from 0"),
        ({"RANK": "0", "WORLD_SIZE": "x"}, "WORLD_SIZE=x: is not a number from 0"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1: is not a number from 0"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: is not below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK=x: is not a number from 0"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "x"}, "SLURM_PROCID=x: is not a number from 0"),
    ],
)
def test_what_the_environment_says_of_other_processes(environment, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            processes.given(environment)
        assert str(error.value) == f"{expected}; unset it, unless torchrun or srun starts the processes"
    else:
        assert processes.given(environment) == expected


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("predict", "run=RUN input={}"), ("predict", "run=RUN input={}*"), ("predict", "run={} input=x"),
        ("evaluate", "run={}"), ("train", "resume={}"), ("train", "-m resume={}"), ("train", "hydra.run.dir={}"),
        ("train", "-m seed=1,2 hydra.sweep.dir={}"), ("train", "paths.logs={}"), ("compare", "{}"), ("trust", "{}"),
        ("train", "data=folder data.size=28 data.channels=1 data.dir={} hydra.run.dir=HERE"),
        ("export", "run=RUN format=safetensors file={}"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_is_a_line(tmp_path, a_run, command, argument):
    known = argument.replace("RUN", str(a_run)).replace("HERE", f"{tmp_path}/here")
    ended = run(tmp_path, command, *known.format(f"{tmp_path}/{'x' * 300}").split())
    assert ended.code == 2, ended.err
    assert len(ended.lines()) == 1, ended.err
    assert "File name too long" in ended.err


LONG = "x" * 100
BYTES = os.fsdecode(b"b\xff")
ENVIRONMENTS = [
    ({"LOCAL_RANK": "abc"}, [], ""),
    ({"RANK": "abc", "WORLD_SIZE": "2"}, [], "train: RANK=abc: is not a number from 0"),
    ({"TMPDIR": LONG}, ["trainer=ddp_cpu", "trainer.devices=2"], ""),
    ({"TMPDIR": LONG}, ["launcher=local"], ""),
    ({"LITLAB_LOGS": "a $HOME q=1,2 \"x'é"}, [], ""),
    ({"LITLAB_LOGS": "new\nline\x1b[31m"}, [], ""),
    ({"LITLAB_LOGS": BYTES}, [], "train: {folder}/b\\udcff/"),
    ({}, [f"data.dir={BYTES}"], "train: data.dir=b\\udcff: cannot be read as utf-8"),
    ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LITLAB_LOGS": "plain"}, [], ""),
    ({"LC_ALL": "C", "PYTHONUTF8": "0"}, ["data.dir=é"], r"train: data.dir=\udcc3\udca9: cannot be read as ascii"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_dir")
@pytest.mark.parametrize(("environment", "arguments", "line"), ENVIRONMENTS)
def test_an_odd_environment_is_of_no_effect_or_told_in_a_line(tmp_path, environment, arguments, line):
    environment = {name: f"{tmp_path}/{text}" if "/" not in text and name in ("TMPDIR", "LITLAB_LOGS") else text
                   for name, text in environment.items()}  # fmt: skip
    if "TMPDIR" in environment:
        (tmp_path / LONG).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "litlab", "train", *SHORT, "logger=none", *arguments],
        env=os.environ | {"LITLAB_LOGS": str(tmp_path / "logs")} | environment,
        cwd=ROOT, capture_output=True, timeout=200,
    )  # fmt: skip
    errors = done.stderr.decode()
    assert done.returncode == (2 if line else 0), errors
    assert errors.startswith(line.format(folder=tmp_path))
    assert errors.count("\n") == bool(line)
    assert visible(done.stdout.decode(), "\n") == done.stdout.decode()
    if not line:
        (log,) = tmp_path.glob("*/train/runs/*/train.log")
        assert "results: " in log.read_text()
