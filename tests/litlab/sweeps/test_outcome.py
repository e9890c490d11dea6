import math
from datetime import UTC, datetime

import pytest
from records import UNREADABLE

from litlab.runs.record import Metrics, Record
from litlab.sweeps.outcome import JobResult, best_jobs, outcome, record_of


def write(folder, status, **best):
    metrics = Metrics(monitor="val/acc", best={name.replace("_", "/"): value for name, value in best.items()})
    record = Record(
        command="train", status=status, reason=None if status == "done" else "why", started=datetime.now(UTC), seed=0,
        python="", versions={}, metrics=metrics,
    )  # fmt: skip
    (folder / "run.json").write_text(record.model_dump_json())


def test_a_job_is_done_when_it_has_measured_all_objectives(tmp_path):
    assert outcome(tmp_path, ["val/acc"]) == JobResult("missing")
    write(tmp_path, "done", val_acc=0.5, val_loss=1.25)
    assert outcome(tmp_path, ["val/acc", "val/loss"]) == JobResult("done", "", {"val/acc": 0.5, "val/loss": 1.25})
    assert str(outcome(tmp_path, ["val/acc", "val/loss"])) == "done, val/acc 0.5, val/loss 1.25"
    lacking = outcome(tmp_path, ["val/acc", "val/foo"])
    assert str(lacking) == "failed: it has no number for val/foo; there is val/acc, val/loss"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_result(tmp_path, value):
    write(tmp_path, "done", val_acc=value)
    assert outcome(tmp_path, ["val/acc"]).status == "failed"


@pytest.mark.parametrize("status", ["failed", "interrupted", "pruned", "running"])
def test_others_have_a_reason_and_no_values(tmp_path, status):
    write(tmp_path, status, val_acc=0.5)
    assert outcome(tmp_path, ["val/acc"]) == JobResult(status, "why")


@pytest.mark.parametrize("odd", UNREADABLE)
def test_a_job_whose_record_cannot_be_read_is_named_with_the_remedy(tmp_path, odd):
    UNREADABLE[odd](tmp_path / "run.json")
    found = outcome(tmp_path, ["val/acc"])
    assert found.status == "damaged"
    assert found.reason.startswith(f"run={tmp_path}")
    assert found.reason.endswith(f"; remove {tmp_path}, and the job is done again")
    assert record_of(tmp_path) is None


def test_the_best_job_is_the_first_with_the_best_value():
    jobs = [JobResult("done", values={"acc": value}) for value in (0.1, 0.9, 0.9, 0.2)]
    jobs += [JobResult("failed", values={"acc": 1.0}), JobResult("damaged"), JobResult("missing")]
    assert best_jobs(jobs, {"acc": "max"}) == [1]
    assert best_jobs(jobs, {"acc": "min"}) == [0]
    assert best_jobs(jobs[4:], {"acc": "max"}) == []


def test_of_several_objectives_those_are_best_that_no_other_beats_in_all():
    values = [(0.9, 10.0), (0.8, 12.0), (0.7, 5.0), (0.7, 5.0), (0.9, 11.0)]
    jobs = [JobResult("done", values={"acc": accuracy, "seconds": seconds}) for accuracy, seconds in values]
    assert best_jobs(jobs, {"acc": "max", "seconds": "min"}) == [0, 2, 3]
