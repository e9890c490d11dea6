"""What tests of sweeps need to start one, and to look at what it has left."""

import contextlib
import json
import os
import signal
from pathlib import Path

from conftest import SHORT
from processes import Process, run

from litlab.comparison.compare import compare


def sweep_arguments(folder, *arguments):
    return ["-m", *SHORT, *arguments, f"paths.logs={folder}/logs"]


def only(folder):
    """The sweep in whose logs there is no other."""
    (sweep,) = (folder / "logs" / "train" / "multiruns").iterdir()
    return sweep


def record(job):
    return json.loads((job / "run.json").read_text())


def statuses(sweep):
    jobs = sorted((path for path in sweep.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    return [record(job)["status"] if (job / "run.json").exists() else "not begun" for job in jobs]


def table(sweep):
    """What compare prints of a sweep, but for the times."""
    rows = json.loads(compare([sweep]).as_json())["groups"]
    return [{key: value for key, value in row.items() if key not in ("seconds", "runs")} for row in rows]


def pids(folder, name):
    """Of the processes that have a file of this name open in the folder, or below it."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if any(_open(process, folder, name))]


def _open(process, folder, name):
    with contextlib.suppress(OSError):  # it has just ended
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # it was just closed
                file = link.readlink()
                yield file.is_relative_to(folder) and file.name == name


def at_work(job):
    """The process that holds the job's run; None where there is none."""
    return next(iter(pids(job, ".lock")), None)


SIX_JOBS = (
    "optimizer.lr=0.001,0.002,1e30,0.003,0.005,0.01",  # the third one's loss becomes NaN
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=60",
    "checkpoint.every_n_steps=20",
)
STATUSES = ["done", "done", "failed", "done", "done", "done"]


def six_jobs(folder):
    """The sweep of six jobs, one after the other."""
    ended = run(folder, "train", *sweep_arguments(folder), *SIX_JOBS)
    assert ended.lines() == ["train: 1 of 6 jobs is not done"]
    return only(folder)


PAIRS = (
    "sweep=random", "sweep.n_trials=4", "sweep.over={seed:2}", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "trainer.max_epochs=2", "trainer.limit_train_batches=40", "checkpoint.every_n_steps=10",
)  # fmt: skip


def pairs(folder, *launcher):
    """The sweep of four trials of two jobs each, and what it has printed."""
    ended = run(folder, "train", *sweep_arguments(folder), *PAIRS, *launcher)
    assert ended.code == 0, ended.err
    return only(folder), ended.out


def six_jobs_disturbed(folder, *launcher):
    """The same by a launcher; the fourth job is killed, and all are gone on with until none is left."""
    process = Process(folder, "train", *sweep_arguments(folder), *SIX_JOBS, *launcher)
    process.wait_for(lambda: list((folder / "logs" / "train" / "multiruns").glob("*/3/checkpoints/last.ckpt")))
    sweep = only(folder)
    os.kill(at_work(sweep / "3"), signal.SIGKILL)
    process.end()
    for _ in range(2):
        if statuses(sweep) != STATUSES:
            run(folder, "train", "-m", f"resume={sweep}", *launcher)
    assert statuses(sweep) == STATUSES
    assert record(sweep / "3")["resumed"][0]["step"] >= 20
    assert "became nan" in record(sweep / "2")["reason"].lower()
    return sweep
