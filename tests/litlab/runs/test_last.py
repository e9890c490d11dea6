import json
import signal
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest
from conftest import SHORT
from multiruns import record
from processes import at, run
from records import READABLE, UNREADABLE, said

from litlab.errors import UserError
from litlab.runs.last import newest_run, remember
from litlab.runs.run import PYTHON, Run


def test_the_newest_run_is_the_one_started_last(tmp_path):
    with pytest.raises(UserError, match="there is no run in"):
        newest_run(tmp_path)
    runs = []
    for name in ("runs/2030-01-01", "runs/2020-01-01", "multiruns/2025-01-01/0"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        runs.append(Run.create(folder, seed=1))
        runs[0].save()  # a run that was started earlier may well be written later
        assert newest_run(tmp_path).folder == folder


@pytest.mark.parametrize("status", ["done", "pruned"])
def test_what_has_come_to_its_end_is_not_unfinished(tmp_path, status):
    for name in ("1", "2"):
        (tmp_path / "train" / "runs" / name).mkdir(parents=True)
        run = Run.create(tmp_path / "train" / "runs" / name, seed=1)
        run.end("interrupted" if name == "1" else status)
        run._lock.release()
    assert newest_run(tmp_path).folder.name == "2"
    assert newest_run(tmp_path, unfinished=True).folder.name == "1"


def leave(logs, name, status, age):
    """A run that was started so many minutes ago."""
    folder = logs / "train" / name
    folder.mkdir(parents=True)
    started = datetime.now(UTC) - timedelta(minutes=age)
    (folder / "run.json").write_text(said(status=status, started=started.isoformat()))
    return folder


@pytest.mark.parametrize("odd", [*UNREADABLE, *READABLE])
def test_a_record_of_somebody_else_does_not_keep_the_others_from_being_found(tmp_path, capsys, odd):
    newer, older = leave(tmp_path, "runs/b", "done", 1), leave(tmp_path, "runs/a", "interrupted", 2)
    strange = tmp_path / "train" / "multiruns" / "x" / "0"
    strange.mkdir(parents=True)
    (UNREADABLE | READABLE)[odd](strange / "run.json")
    assert newest_run(tmp_path, unfinished=True).folder == older
    told = capsys.readouterr().err
    if odd in UNREADABLE:
        assert newest_run(tmp_path).folder == newer
        assert told.startswith(f"last: run={strange}")
        assert told.endswith("; it is skipped\n")
        assert told[:-1].isprintable()
    else:
        assert newest_run(tmp_path).folder == (strange if odd == "the end of time" else newer)
        assert told == ""


def test_a_run_in_a_folder_of_its_own_is_found_for_as_long_as_it_is_there(tmp_path):
    logs, folders = tmp_path / "logs", [tmp_path / "mine" / name for name in ("0", "a b", "π")]
    leave(logs, "runs/older", "interrupted", 5)
    for age, folder in enumerate(folders):
        folder.mkdir(parents=True)
        started = datetime.now(UTC) - timedelta(minutes=age)
        (folder / "run.json").write_text(said(status="interrupted", started=started.isoformat()))
        remember(folder, logs)
        remember(folder, logs)
    for folder in folders:
        assert newest_run(logs, unfinished=True).folder == folder
        (folder / "run.json").unlink()
        folder.rmdir()
    assert newest_run(logs).folder.name == "older"
    remember(logs / "train" / "runs" / "older", logs)
    remember(tmp_path, logs)
    assert [link.readlink() for link in (logs / "train" / "elsewhere").iterdir()] == [tmp_path]


def test_what_is_newer_is_told(tmp_path):
    done, stopped = leave(tmp_path, "runs/b", "done", 1), leave(tmp_path, "runs/a", "failed", 2)
    last = newest_run(tmp_path, unfinished=True)
    assert (last.folder, last.passed_over) == (stopped, f"the newest one, {done}, is done")
    assert newest_run(tmp_path).passed_over is None
    (stopped / "run.json").write_text(said(status="pruned"))
    with pytest.raises(UserError) as error:
        newest_run(tmp_path, unfinished=True)
    assert str(error.value) == f"there is no unfinished run in {tmp_path}/train; the newest one, {done}, is done"


def test_commands_say_what_last_is_and_change_no_older_run(tmp_path, mnist_dir):
    logs = f"paths.logs={tmp_path}/logs"
    own = [*SHORT, "test=false", logs, f"hydra.run.dir={tmp_path}/own"]
    assert run(tmp_path, "train", *own, prepare=at("on_train_epoch_end")).code == -signal.SIGKILL
    folder, said_before = tmp_path / "own", record(tmp_path / "own")
    newer = leave(tmp_path / "logs", "runs/newer", "done", -1)
    refused = run(tmp_path, "train", logs, "resume=last", "trainer.max_epochs=4")
    assert refused.code == 2
    assert refused.err == (
        f"train: resume=last: the newest one, {newer}, is done, and an older one is {folder}; "
        "to change settings, give the folder\n"
    )
    assert record(folder) == said_before
    (newer / "run.json").write_text("{")
    versions = said_before["versions"] | {"torch": "1.0\x1b[2J", "litlab": "0.0"}
    (folder / "run.json").write_text(json.dumps(said_before | {"versions": versions, "python": "3.1"}))
    done = run(tmp_path, "train", logs, "resume=last", "trainer.max_epochs=2")
    assert done.code == 0, done.err
    assert f"resume=last: {folder}\n" in done.err
    python, torch, litlab = PYTHON, version("torch"), version("litlab")
    assert (
        f"this run began with other versions: python 3.1, now {python}, litlab 0.0, now {litlab}, "
        f"torch 1.0\\x1b[2J, now {torch}; it will not be exact to the bit\n"
    ) in done.out
    assert record(folder)["status"] == "done"
    for command in ("evaluate", "reproduce"):
        ended = run(tmp_path, command, logs, "run=last")
        assert ended.code == 0, ended.err
        assert f"run=last: {folder}\n" in ended.err
        assert f"last: run={newer}: its run.json is damaged" in ended.err
