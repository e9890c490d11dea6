"""Modules of other people's kind train, are evaluated, and end after resuming as if they had never stopped."""

import json

import other_modules
import pytest
import torch
from conftest import settings_of, train

from litlab.checks.subject import final
from litlab.checks.watch import StopAt
from litlab.errors import Pruned
from litlab.inference.evaluate import evaluate


def of(name):
    """The settings of a training of this module."""
    data, monitor = other_modules.CASES[name]
    module = name if hasattr(other_modules, name) else "Basic"
    return settings_of(
        f"other_modules.{module}", f"other_modules.{data}", monitor,
        "trainer.max_epochs=3", "views=none", "logger=csv", "checkpoint.every_n_steps=1",
        *(["++data.workers=2"] if name == "read by workers" else []),
    )  # fmt: skip


def measured(run):
    """What the record says was measured, without the speed."""

    def exact(value):
        if isinstance(value, dict):
            return {key: exact(inner) for key, inner in value.items() if key != "examples_per_second"}
        return [exact(inner) for inner in value] if isinstance(value, list) else value

    return exact(json.loads((run.folder / "run.json").read_text())["metrics"])


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
@pytest.mark.filterwarnings("ignore:Found 1 module")  # in eval mode, as a frozen backbone is meant to be
@pytest.mark.parametrize("name", other_modules.CASES)
def test_trains_resumes_exactly_and_is_evaluated(name, tmp_path):
    whole = train(of(name), tmp_path / "whole")
    with pytest.raises(Pruned):
        train(of(name), tmp_path / "stopped", callbacks=[StopAt(5)])
    resumed = train(of(name), tmp_path / "stopped")
    torch.testing.assert_close(final(resumed), final(whole), rtol=0, atol=0)
    before = measured(whole)
    assert measured(resumed) == before
    if before["test"]:
        (tmp_path / "evaluation").mkdir()
        run = evaluate(of(name), whole.best_checkpoint(), "cpu", None, tmp_path / "evaluation")
        assert run.record.metrics.test == before["test"]
    assert bool(before["test"]) == (name not in ("GAN", "Untested"))
