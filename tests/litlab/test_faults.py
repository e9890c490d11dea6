"""Each write of the lab's, with each error that a file system may have: one line, and nothing torn."""

import errno
import itertools
import json
import os
import shutil

import pytest
import torch
from conftest import ROOT, SHORT
from faults import FAULTS, failing
from processes import contents, run

from litlab.config.marks import is_marked
from litlab.files import write_text
from litlab.runs.checkpoint import read
from litlab.runs.run import Run
from litlab.runs.writing import AtomicCheckpointIO

pytestmark = pytest.mark.usefixtures("mnist_dir")


def save_text(file, value):
    write_text(file, f"{value}\n" * 1000)


def save_checkpoint(file, value):
    AtomicCheckpointIO(file.parent).save_checkpoint({"state_dict": {"weight": torch.full((1000,), float(value))}}, file)


@pytest.mark.parametrize("stage", ["open", "write", "sync", "rename"])
@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("save", [save_text, save_checkpoint])
def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch, save, number, stage):
    file = tmp_path / "file"
    save(file, 1)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        failing("file", number, stage, patch=patch.setattr)()
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            save(file, 2)
    assert (raised.value.errno, raised.value.filename) == (number, str(file))
    assert contents(tmp_path) == before
    save(file, 2)
    assert contents(tmp_path).keys() == before.keys()
    assert contents(tmp_path) != before


TRAIN = (*SHORT, "logger=[tensorboard,csv]", "checkpoint.every_n_steps=5", "hydra.run.dir=HERE")
SWEEP = ("-m", *SHORT, "logger=none", "optimizer.lr=0.001,0.002", "hydra.sweep.dir=HERE")
AGAIN = ("resume=HERE", "trainer.max_epochs=2")
WRITES = {
    "the config of a run": ("train", TRAIN, "config.yaml", 1),
    "the lock": ("train", TRAIN, ".lock", 1),
    "the record of a new run": ("train", TRAIN, "run.json", 1),
    "the record of what it is computed on": ("train", TRAIN, "run.json", 2),
    "the record at the end": ("train", TRAIN, "run.json", 3),
    "the first checkpoint": ("train", TRAIN, "last.ckpt", 1),
    "a later checkpoint": ("train", TRAIN, "last.ckpt", 4),
    "the best weights": ("train", TRAIN, "best.ckpt", 1),
    "the event file": ("train", TRAIN, "events.out.*", 1),
    "more events": ("train", TRAIN, "events.out.*", 3),
    "the CSV file": ("train", TRAIN, "metrics.csv", 1),
    "more rows": ("train", TRAIN, "metrics.csv", 2),
    "the record of a run that goes on": ("train", AGAIN, "run.json", 1),
    "the config of a run that goes on": ("train", AGAIN, "config.yaml", 1),
    "the config of an evaluation": ("evaluate", ("run=RUN", "hydra.run.dir=HERE"), "config.yaml", 1),
    "its record": ("evaluate", ("run=RUN", "hydra.run.dir=HERE"), "run.json", 1),
    "its record at the end": ("evaluate", ("run=RUN", "hydra.run.dir=HERE"), "run.json", 2),
    "the config of a reproduction": ("reproduce", ("run=RUN", "hydra.run.dir=HERE"), "config.yaml", 1),
    "a mark": ("trust", ("HERE", "yes=true"), "config.yaml", 1),
    "an export": ("export", ("run=RUN", "format=safetensors", "file=HERE.net"), "HERE.net", 1),
    "a drawing": ("predict", ("run=RUN", f"input={ROOT}/docs/seven.png", "show=HERE.png"), "HERE.png", 1),
    "the plan of a sweep": ("train", SWEEP, "plan.json", 1),
    "the study": ("train", SWEEP, "study.journal", 1),
    "the study, later": ("train", SWEEP, "study.journal", 3),
    "the config of a job": ("train", SWEEP, "config.yaml", 2),
    "the record of a job": ("train", SWEEP, "run.json", 4),
    "the pictures": ("train", SWEEP, "*.png", 1),
    "the experiment": ("train", SWEEP, "job_*.yaml", 1),
}
LONGER = {write for write, (_, arguments, *_) in WRITES.items() if arguments == AGAIN}
CASES = list(itertools.product(WRITES, FAULTS))
QUICK = {(write, number) for (write, (*_, first)), number in zip(WRITES.items(), itertools.cycle(FAULTS)) if first == 1}
"""Of each first write one error, and each error of some write; all of them take minutes."""


@pytest.mark.parametrize(
    ("write", "number"),
    [
        pytest.param(*case, id=f"{case[0]}-{errno.errorcode[case[1]]}", marks=[] if case in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)
def test_a_write_that_fails_is_one_line_and_tears_nothing(tmp_path, a_run, write, number):
    command, arguments, name, first = WRITES[write]
    here = tmp_path / "here"
    arguments = [text.replace("RUN", str(a_run)).replace("HERE", str(here)) for text in arguments]
    if str(here) in arguments or f"resume={here}" in arguments:
        shutil.copytree(a_run, here)
    if command == "trust":
        (here / "config.yaml").write_text((here / "config.yaml").read_text() + "# changed\n")
    before = contents(tmp_path)
    stage = "open" if name == ".lock" else FAULTS[number]  # nothing is written into it
    fault = failing(name.replace("HERE", "here"), number, stage, first)
    ended = run(tmp_path, command, *arguments, prepare=fault)
    assert ended.code == 2, ended.err
    assert len(ended.lines()) == 1, ended.err
    assert ended.err.startswith(f"{command}: ")
    assert os.strerror(number) in ended.err
    assert not list(tmp_path.rglob(".*.new"))
    if command in ("trust", "export", "predict"):
        assert {file for file in contents(tmp_path) if file.suffix not in (".out", ".err")} == before.keys()
        return
    for file in here.rglob("config.yaml"):
        assert is_marked(file)
    for file in here.rglob("run.json"):
        assert command == "evaluate" or Run.open(file).record.status != "failed"
    for file in here.rglob("*.ckpt"):
        assert read(file)["state_dict"]
    if (again := ended.err.partition("go on with: python -m litlab ")[2]) and command == "train":
        done = run(tmp_path, *again.split(), *arguments[1:] * (write in LONGER))
        assert done.code == 0, done.err
        assert all(json.loads(file.read_text())["status"] == "done" for file in here.rglob("run.json"))


@pytest.mark.parametrize("number", FAULTS)
def test_a_log_that_cannot_be_written_is_told_once_and_the_training_goes_on(tmp_path, number):
    folder = tmp_path / "run"
    fault = failing("train.log", number, "write")
    ended = run(tmp_path, "train", *SHORT, "logger=none", f"hydra.run.dir={folder}", prepare=fault)
    assert ended.code == 0, ended.err
    assert ended.err == f"{folder}/train.log cannot be written: {os.strerror(number)}\n"
    assert Run.open(folder).record.status == "done"
    assert ended.out.splitlines()[-2] == f"results: {folder}"
