"""Each planted fault is found and named, and sound modules pass."""

import json

import other_modules
import pytest
from conftest import settings, settings_of

from litlab.checks.fast import best_of
from litlab.checks.run import chosen, findings
from litlab.checks.verdict import Verdict
from litlab.errors import UserError

MODULES = {
    "TrainsInValidation": (
        "validation",
        "failed",
        "longer validations lead to other statistics: net.1.num_batches_tracked",
    ),
    "ShrinksInValidation": ("validation", "failed", "longer validations lead to other weights: net.0.weight"),
    "DrawsInValidation": ("validation", "failed", "longer validations lead to other weights: "),
    "AveragesAverages": ("metrics", "failed", "in batches of other sizes val_acc is "),
    "WeighsBatchesAlike": ("metrics", "failed", "in batches of other sizes val_loss is "),
    "NeverResets": ("metrics", "failed", "a second time val_acc is "),
    "DropoutLeftOn": ("metrics", "failed", "validation draws random numbers, as a dropout does that is left on"),
    "KnowsItsBatch": ("predict", "failed", "the answer to an example alone is another"),
    "ReadsANumber": ("waits", "noted", "numbers are read off the device at planted.py:"),
    "Detaches": ("gradients", "failed", "none or zero: net.0.bias, net.0.weight"),
    "DetachesTheLoss": ("gradients", "failed", "element 0 of tensors does not require grad"),
    "ForgetsALayer": ("changes", "failed", "no optimizer has net.0.bias, net.0.weight, net.1.bias and 1 more"),
    "FreezesALayer": ("changes", "noted", "frozen in the module: net.0.bias, net.0.weight"),
    "MovesAFrozenOne": ("changes", "failed", "frozen, and changed: net.0.weight"),
    "StepsTwice": ("changes", "failed", "StepLR was stepped 24 times, and should have been 12 times"),
    "SumsTheLoss": ("start", "failed", "; 4 classes by chance: 1.39"),
    "NeverLearns": ("overfit", "failed", "loss "),
    "Forgets": ("resume", "failed", "tensors and values differ, by up to"),
    "GoesByTheClock": ("twice", "failed", "tensors and values differ, by up to"),
    "Raises": ("gradients", "failed", "AttributeError: 'Raises' object has no attribute 'nett'"),
}
DATA = {
    "ShuffledValidation": ("order", "failed", "the validation's batches are others each time"),
    "Leaks": ("leak", "failed", "10 of val are in train, by their hash"),
    "NotNumbers": ("batch", "failed", "a batch holds NaN or infinite numbers"),
    "AllTheSame": ("batch", "failed", "all numbers of a batch's inputs are the same"),
    "DrawsFromNumPy": ("order", "noted", "reading an example draws from np.random: "),
    "DrawsFromPython": ("order", "noted", "reading an example draws from random: "),
    "LabelsFromOne": ("gradients", "failed", "labels"),
    "DrawsFromTorch": ("order", "noted", "reading an example draws from torch: "),
    "OneOrder": ("order", "noted", "each epoch has the same examples in the same order"),
}


def of(module, data="planted.Points", monitor="val_loss"):
    """The settings of a training with this module and these data."""
    return settings_of(module, data, monitor)


def found(config, *only):
    return [(one.check.name, one.verdict) for one in findings(config, chosen(only))]


def shown(verdicts):
    return {name: f"{one.status}: {one.found} → {one.advice}" for name, one in verdicts}


@pytest.mark.parametrize("name", MODULES)
def test_a_fault_of_a_module_is_found_and_named(name):
    check, status, text = MODULES[name]
    ((_, verdict),) = found(of(f"planted.{name}", monitor=None), check)
    assert (verdict.status, text in verdict.found) == (status, True), verdict
    assert verdict.advice


@pytest.mark.parametrize("name", DATA)
def test_a_fault_of_the_data_is_found_and_named(name):
    check, status, text = DATA[name]
    ((_, verdict),) = found(of("planted.Sound", f"planted.{name}"), check)
    assert (verdict.status, text in verdict.found) == (status, True), verdict
    assert verdict.advice


OTHERS = {
    name: (f"other_modules.{name if hasattr(other_modules, name) else 'Basic'}", f"other_modules.{data}", monitor)
    for name, (data, monitor) in other_modules.CASES.items()
}
SOUND = {"Sound": ("planted.Sound", "planted.Points", "val_loss"), **OTHERS}
"""Modules with their data and what is monitored."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_module_gives_no_false_alarm(name):
    verdicts = found(of(*SOUND[name]), "right", "exact", "safe", "speed", "waits")
    assert not [told for told in shown(verdicts).items() if told[1].startswith("failed")], shown(verdicts)
    assert sum(verdict.status == "passed" for _, verdict in verdicts) >= 8, shown(verdicts)


@pytest.mark.slow
def test_what_helps_is_tried_and_measured(mnist_dir):
    told = found(settings("trainer=cpu", "data.loader=workers", "trainer.precision=32-true"), "speed", "help")
    (_, speed), (_, helps) = told
    parts = ("data ", "transfer ", "forward ", "backward ", "optimizer ", "logging ", "hooks and loop ")
    assert all(part in speed.found for part in parts), speed
    tried = "data.loader=memory, data.num_workers=2, trainer.precision=bf16-mixed, data.batch_size=100, "
    assert helps.found.endswith(f" {tried}data.batch_size=200, data.batch_size=400")


def test_the_three_changes_that_help_most_are_named():
    told = best_of({"a=1": 1.04, "b=2": 1.3, "c=3": 2.0, "d=4": 0.5, "e=5": 1.06, "f=6": 1.1})
    assert told.found == "tried a=1, b=2, c=3, d=4, e=5, f=6"
    assert told.advice == "c=3: 2.00 times as fast; b=2: 1.30 times as fast; f=6: 1.10 times as fast"
    assert best_of({"a=1": 1.04}) == Verdict("passed", "none of a=1")


def test_what_there_is_not_cannot_be_chosen():
    assert [one.name for one in chosen(["safe"])] == ["checkpoint", "predict", "export"]
    with pytest.raises(UserError, match="^only=reume: no such check; there is right, exact, fast, safe, "):
        chosen(["reume"])


def test_the_command_prints_a_table_or_json_and_its_exit_code_tells(command, mnist_dir):
    done = command("check", "only=batch,resume", "format=json", "trainer=cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(one["check"], one["verdict"]) for one in json.loads(done.stdout)] == [
        ("batch", "passed"), ("resume", "passed"),
    ]  # fmt: skip
    done = command("check", "only=overfit", "trainer=cpu", "optimizer.lr=1e-9")
    assert done.returncode == 1
    assert "raise optimizer.lr" in done.stdout
