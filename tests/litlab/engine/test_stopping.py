"""A run goes on after something has decided to stop: it ends, trains what is left, and says what it did."""

import json
from datetime import timedelta

import pytest
import torch
from conftest import SHORT, settings, train
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer

pytestmark = pytest.mark.usefixtures("mnist_dir")

RUN = (*SHORT, "trainer.limit_train_batches=4", "trainer.num_sanity_val_steps=0", "logger=none", "test=false")


class Watch(Callback):
    """Refuses to train for ever; asks to stop in a hook, or makes the validation metric what it should be."""

    def __init__(self, hook=None):
        self.epochs, self.validations = 0, []
        if hook:
            setattr(self, hook, self._stop)

    def _stop(self, trainer, *_args):
        trainer.should_stop = True

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1
        assert self.epochs < 9, "the training does not end"

    def on_validation_end(self, trainer, pl_module):
        self.validations.append(trainer.global_step)


@pytest.fixture
def fit(tmp_path):
    """Train, or go on, with more callbacks; return the record, the steps of `last.ckpt` and the watch."""
    folder = tmp_path / "run"
    folder.mkdir()

    def run(*overrides, hook=None, callbacks=()):
        watch = Watch(hook)
        train(settings(*RUN, *overrides), folder, callbacks=[*callbacks, watch])
        steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        return json.loads((folder / "run.json").read_text()), steps, watch

    return run


def early(patience=1):
    return EarlyStopping("val/loss", min_delta=100.0, patience=patience)


STOPPED = {
    "a limit of epochs": ({}, ["trainer.max_epochs=1"], 4, "trainer.max_epochs=1 is reached"),
    "a limit of steps": ({}, ["trainer.max_epochs=9", "trainer.max_steps=4"], 4, "trainer.max_steps=4 is reached"),
    "a limit of steps in an epoch": ({}, ["trainer.max_steps=6"], 6, "trainer.max_steps=6 is reached"),
    "a limit of time": ({}, ["trainer.max_time=00:00:00:00"], 0, "the time limit is reached"),
    "a timer in an epoch": ({"callbacks": lambda: [Timer(timedelta(milliseconds=1))]}, [], 1, "the time limit is rea"),
    "a timer of epochs": ({"callbacks": lambda: [Timer(timedelta(milliseconds=1), "epoch")]}, [], 4, "the time limit "),
    "early stopping": ({"callbacks": lambda: [early()]}, [], 8, "val/loss did not improve for 1 epoch"),
    "a callback at the start of fit": ({"hook": "on_fit_start"}, [], 0, "Watch set trainer.should_stop"),
    "a callback at the start": ({"hook": "on_train_start"}, [], 0, "Watch set trainer.should_stop"),
    "a callback at a validation": ({"hook": "on_validation_end"}, [], 4, "Watch set trainer.should_stop"),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("what", STOPPED)
def test_a_run_that_has_decided_to_stop_ends_when_it_goes_on(fit, caplog, what, steps):
    more, overrides, expected, line = STOPPED[what]
    options = ["trainer.max_epochs=5", *overrides, f"trainer.steps_per_execution={steps}"]
    caplog.set_level("INFO")

    def go_on(**others):
        caplog.clear()
        made = {key: value() if key == "callbacks" else value for key, value in more.items()}
        record, done, watch = fit(*options, **made, **others)
        return record, done, watch, [text for text in caplog.messages if text.startswith("no step was trained")]

    if expected == 0:  # without a checkpoint there is nothing to go on from, and the run says so the first time
        with pytest.raises(FileNotFoundError):
            go_on()
        assert any(text.startswith(f"no step was trained: {line}") for text in caplog.messages)
        return
    first, done, _, told = go_on()
    assert told == []
    assert done >= expected if "time" in what else done == expected
    for _ in range(2):
        again, redone, watch, told = go_on()
        assert redone == done
        assert [text.startswith(f"no step was trained: {line}") for text in told] == [True]
        assert watch.validations in ([], [done])
        for part in ("validations", "best", "best_epoch"):
            assert again["metrics"][part] == first["metrics"][part]
        assert again["status"] == "done"


def test_a_stopped_run_trains_on_once_its_limit_is_raised(fit):
    _, stopped, _ = fit("trainer.max_epochs=3", callbacks=[early()])
    assert stopped == 8
    record, steps, watch = fit("trainer.max_epochs=3", callbacks=[early(patience=5)])
    assert (steps, watch.validations) == (12, [8, 12])
    assert [one["step"] for one in record["metrics"]["validations"]] == [4, 8, 12]


def test_a_validation_that_a_timer_brought_about_stays_in_the_record(fit):
    options = ("trainer.max_epochs=2", "trainer.steps_per_execution=1")
    first, stopped, _ = fit(*options, callbacks=[Timer(timedelta(milliseconds=1))])
    record, steps, _ = fit(*options, callbacks=[Timer(timedelta(hours=1))])
    assert (stopped, steps) == (1, 8)
    assert [one["step"] for one in record["metrics"]["validations"]] == [1, 4, 8]
    assert record["metrics"]["validations"][0]["metrics"] == first["metrics"]["best"]
