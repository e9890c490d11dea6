import json
import subprocess
import sys

import pytest

from litlab.errors import UserError
from litlab.runs.run import Run


def read(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_says_how_it_ended(tmp_path):
    run = Run.create(tmp_path, seed=0)
    assert read(tmp_path)["status"] == "running"
    assert read(tmp_path)["seed"] == 0
    assert read(tmp_path)["ended"] is None
    with run.tracked():
        pass
    assert read(tmp_path)["status"] == "done"
    assert read(tmp_path)["ended"] >= read(tmp_path)["started"]


def test_records_a_command_that_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/train", "seed=1", "data.dir=/my data"])
    assert Run.create(tmp_path, seed=1).record.command == "train seed=1 'data.dir=/my data'"
    monkeypatch.setattr(sys, "argv", ["train"])
    (tmp_path / "plain").mkdir()
    assert Run.create(tmp_path / "plain", seed=1).record.command == "train"


def test_a_failed_run_says_why(tmp_path):
    run = Run.create(tmp_path, seed=1)
    with pytest.raises(ZeroDivisionError), run.tracked():
        _ = 1 / 0
    assert read(tmp_path)["status"] == "failed"
    assert read(tmp_path)["reason"] == "ZeroDivisionError: division by zero"


def test_records_the_source_and_the_versions(tmp_path):
    record = Run.create(tmp_path, seed=1).record
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=__file__.rpartition("/")[0]
    )
    assert record.git is None if commit.returncode else record.git.commit == commit.stdout.strip()
    assert record.python == sys.version.split()[0]
    assert record.versions["torch"].split(".")[0] == "2"


def test_opens_what_it_wrote(tmp_path):
    run = Run.create(tmp_path, seed=1)
    run.record.metrics.last = {"train/loss": float("nan"), "val/acc": 0.1}
    run.save()
    read_back = Run.open(tmp_path)
    assert read_back.record.model_dump_json() == run.record.model_dump_json()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    assert Run.open(tmp_path / "checkpoints" / "best.ckpt").folder == tmp_path


def test_refuses_a_folder_that_holds_a_run(tmp_path):
    Run.create(tmp_path, seed=1)
    with pytest.raises(UserError, match="holds a run already"):
        Run.create(tmp_path, seed=2)
    assert read(tmp_path)["seed"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "done"}', "\x00\x01"])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"its run\.json is damaged"):
        Run.open(tmp_path)


def test_without_a_checkpoint_it_says_so(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint; the run's status is running"):
        Run.create(tmp_path, seed=1).best_checkpoint()


def test_other_versions_are_those_of_what_the_record_knows(tmp_path):
    run = Run.create(tmp_path, seed=1)
    assert run.other_versions() == {}
    now = run.record.versions["torch"]
    run.record.versions = {"torch": "2.0", "gone": "1"}
    assert run.other_versions() == {"torch": ("2.0", now)}
