"""Sweeps' files that were changed or damaged: each ends in one line, or works."""

import json
import math
import subprocess
import time

import pytest
from hydra.errors import HydraException
from plans import plan_of
from processes import contents, run

from litlab.config.compose import explain
from litlab.config.marks import unmarked
from litlab.errors import UserError
from litlab.sweeps.outcome import JobResult
from litlab.sweeps.plan import FILE, Plan
from litlab.sweeps.storage import JOURNAL
from litlab.sweeps.study import Study

DRAWN = ("optimizer.lr=tag(log,interval(1e-4,0.1))", "data.batch_size=choice(20,50)", "seed=range(0,10,2)")


@pytest.fixture(scope="module")
def plans():
    return {
        "grid": plan_of("optimizer=adam,sgd", "optimizer.lr=0.1,0.01"),
        "tpe": plan_of("sweep=tpe", "sweep.n_trials=4", *DRAWN),
    }


def work_off(folder, plan):
    """Go through a sweep's jobs as one does that goes on."""
    study, jobs = Study(folder, plan), 0
    while following := study.next():
        study.tell(following[0], JobResult("done", values={"val/acc": 0.5}))
        jobs += 1
        assert jobs < 10
    for trial in study.trials():
        assert study.params(trial.number).keys() <= {one.key for one in plan.dimensions}


def read_and_work_off(folder):
    plan = Plan.load(folder)
    plan.listing()
    work_off(folder, plan)


def line_of(action, *arguments):
    """What is said of a folder, which must be soon and in one line; None if the sweep goes on."""
    began, said = time.monotonic(), None
    try:
        action(*arguments)
    except UserError as error:
        said = str(error)
    except HydraException as error:  # which the command line explains
        said = explain(error)
    assert time.monotonic() - began < 10
    assert said is None or len(said.splitlines()) == 1, said
    return said


def parts(values, place=()):
    """The places in what JSON holds; of lists, those of their first items."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values[:1]) if isinstance(values, list) else ()
    for key, value in pairs:
        yield (*place, key)
        yield from parts(value, (*place, key))


def with_part(text, place, new):
    """The JSON with one part replaced, or left out where `new` is Ellipsis."""
    values = inner = json.loads(text)
    *way, last = place
    for key in way:
        inner = inner[key]
    if new is ...:
        del inner[last]
    else:
        inner[last] = new
    return json.dumps(values)


OTHERS = (..., None, -1, 0, 3, 10**12, 10**400, "x", "", "a=b", "${a}", "[", [], [1, 2], {}, {"a": 1}, math.nan)


@pytest.mark.parametrize("kind", ["grid", "tpe"])
def test_a_plan_with_another_part_is_refused_in_a_line_or_works(plans, tmp_path, kind):
    plans[kind].save(tmp_path)
    text = unmarked((tmp_path / FILE).read_text())
    refused = {}
    for place in parts(json.loads(text)):
        for new in OTHERS:
            (tmp_path / FILE).write_text(with_part(text, place, new))
            (tmp_path / JOURNAL).unlink(missing_ok=True)
            refused[place, repr(new)] = line_of(read_and_work_off, tmp_path)
    assert len(refused) > 400
    for place, new in (
        ("planned", 3),
        ("planned", 10**12),
        ("jobs", [1, 2]),
        ("objectives", {}),
        ("dimensions", {"a": 1}),
    ):
        assert f"{FILE} is damaged: " in refused[(place,), repr(new)], place


CONSISTENT = {
    "more jobs": ("grid", ("planned",), 5, "planned: does not fit the rest"),
    "other jobs": ("grid", ("jobs", 0), {"optimizer": "sgd", "optimizer.lr": "0.1"}, "jobs: does not fit the rest"),
    "fewer choices": ("grid", ("dimensions", 1, "choices"), ["0.1"], "jobs: does not fit the rest"),
    "another key": ("grid", ("dimensions", 1, "key"), "optimizer", "dimensions: does not fit the rest"),
    "a base of other options": ("grid", ("bases", 0, "choices"), {}, "bases: does not fit the rest"),
    "a base of no config": ("grid", ("bases", 0, "config"), "a: 1", "Could not override 'optimizer.lr'"),
    "no values": ("grid", ("dimensions", 1, "choices"), [], "leaves none of the 0 jobs"),
    "other objectives": ("grid", ("sampling", "objectives"), {"val/loss": "min"}, "objectives: does not fit the rest"),
    "too many trials": ("tpe", ("sampling", "n_trials"), 10**12, "less than or equal to 100000"),
    "other trials": ("tpe", ("sampling", "n_trials"), 5, "planned: does not fit the rest"),
    "an interval upside down": ("tpe", ("dimensions", 0, "low"), 5.0, "optimizer.lr: "),
    "an endless interval": ("tpe", ("dimensions", 2, "high"), 10**400, "seed="),
    "a value that no job may have": ("tpe", ("dimensions", 1, "choices", 0), "x", "data.batch_size=x: should be"),
}


@pytest.mark.parametrize("change", CONSISTENT)
def test_a_plan_whose_parts_do_not_fit_is_refused(plans, tmp_path, change):
    kind, place, new, reason = CONSISTENT[change]
    plans[kind].save(tmp_path)
    text = unmarked((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(with_part(text, place, new))
    with pytest.raises(UserError) as error:
        Plan.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / FILE} is damaged: ")
    assert reason in str(error.value)


@pytest.mark.parametrize("kind", ["grid", "tpe"])
def test_a_journal_with_another_part_is_refused_in_a_line_or_works(plans, tmp_path, kind):
    study = Study(tmp_path, plans[kind])
    for accuracy in (0.5, 0.6):
        study.tell(study.next()[0], JobResult("done", values={"val/acc": accuracy}))
    study.next()
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").touch()
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    changed = [lines[:at] + lines[at + more :] for at in range(len(lines)) for more in (0, 1)]
    changed += [
        [*lines[:at], with_part(line, (key,), new), *lines[at + 1 :]]
        for at, line in enumerate(lines)
        for key in json.loads(line)
        for new in (..., None, 10**12, "x", {}, [1, 2])
    ]
    said = []
    for texts in changed:
        (tmp_path / JOURNAL).write_text("".join(f"{text}\n" for text in texts))
        said.append(line_of(work_off, tmp_path, plans[kind]))
    assert sum(line is not None and f"{JOURNAL} is damaged: " in line for line in said) > len(said) / 4


def test_a_sweep_of_other_jobs_is_told_from_its_own(plans, tmp_path):
    Study(tmp_path, plans["tpe"]).next()
    with pytest.raises(UserError, match="study.journal is damaged: job 0 has other values than the sweep gives it; "):
        Study(tmp_path, plan_of("sweep=tpe", "sweep.n_trials=4", "optimizer.lr=interval(0.1,0.2)"))
    with pytest.raises(UserError, match="study.journal is damaged: it has other objectives; "):
        Study(tmp_path, plans["tpe"].model_copy(update={"objectives": {"val/loss": "min"}}))


def test_a_number_of_trials_has_a_bound():
    with pytest.raises(UserError, match="sweep.n_trials=1000000000000: should be less than or equal to 100000"):
        plan_of("sweep=random", "sweep.n_trials=1000000000000", "seed=range(5)")


def test_a_sweeps_folder_that_is_read_only_is_a_line(plans, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        plans["grid"].save(folder)
        before = contents(folder)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        ended = run(tmp_path, "train", "-m", f"resume={folder}")
        assert ended.code == 2
        assert ended.err == (
            f"train: {folder} cannot be written: Read-only file system; what is done is kept; "
            f"once that is mended, go on with: python -m litlab train -m resume={folder}\n"
        )
        assert contents(folder) == before
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
