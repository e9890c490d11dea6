import math
from datetime import UTC, datetime

import pytest

from litlab.errors import UserError
from litlab.runs.run import Metrics, Record
from litlab.sweeps.outcome import Outcome, outcome


def write(folder, status, **best):
    metrics = Metrics(monitor="val/acc", best={name.replace("_", "/"): value for name, value in best.items()})
    record = Record(
        command="train", status=status, reason=None if status == "done" else "why", started=datetime.now(UTC), seed=0,
        python="", versions={}, metrics=metrics,
    )  # fmt: skip
    (folder / "run.json").write_text(record.model_dump_json())


def test_a_job_is_done_when_it_has_measured_all_objectives(tmp_path):
    assert outcome(tmp_path, ["val/acc"]) == Outcome("missing")
    write(tmp_path, "done", val_acc=0.5, val_loss=1.25)
    assert outcome(tmp_path, ["val/acc", "val/loss"]) == Outcome("done", "", {"val/acc": 0.5, "val/loss": 1.25})
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
    assert outcome(tmp_path, ["val/acc"]) == Outcome(status, "why")


def test_a_damaged_record_is_named_with_the_remedy(tmp_path):
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match=r"its run.json is damaged: .*; remove .*, and the job is done again"):
        outcome(tmp_path, ["val/acc"])
