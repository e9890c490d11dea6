"""The weights that are kept, tested and used are the best ones, or those that an averaging callback gave."""

import json

import pytest
import torch
from conftest import SHORT
from processes import run

pytestmark = pytest.mark.usefixtures("mnist_dir")

CALLBACKS = "lightning.pytorch.callbacks"
TWO_EPOCHS = ("trainer.max_epochs=2", "trainer.limit_val_batches=2", "logger=none")


def train(tmp_path, name, *overrides):
    """A run's folder and its record."""
    ended = run(tmp_path, "train", *SHORT, "logger=none", f"hydra.run.dir={tmp_path}/{name}", *overrides)
    assert ended.code == 0, ended.err
    return tmp_path / name, json.loads((tmp_path / name / "run.json").read_text()), ended


def weights(folder, name):
    state: dict = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return state


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def evaluated(tmp_path, folder):
    """What `evaluate` measures of a run's best weights."""
    ended = run(tmp_path, "evaluate", f"run={folder}", f"hydra.run.dir={tmp_path}/evaluation_{folder.name}")
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / f"evaluation_{folder.name}" / "run.json").read_text())
    return record["metrics"]["test"]


@pytest.mark.slow
def test_what_is_kept_and_tested_is_what_the_averaging_gave(tmp_path):
    average = f"callbacks.ema={{_target_: {CALLBACKS}.EMAWeightAveraging, decay: 1.0}}"  # stays at the first step
    one_step, *_ = train(tmp_path, "one_step", "trainer.max_steps=1")
    averaged, record, _ = train(tmp_path, "averaged", average, *TWO_EPOCHS)
    assert same(weights(averaged, "best"), weights(one_step, "last"))
    assert record["metrics"]["test"] == evaluated(tmp_path, averaged)

    plain, *_ = train(tmp_path, "plain", *TWO_EPOCHS)
    swa = f"callbacks.swa={{_target_: {CALLBACKS}.StochasticWeightAveraging, swa_lrs: 0.001, swa_epoch_start: 1}}"
    swapped, record, ended = train(tmp_path, "swapped", swa, *TWO_EPOCHS)
    assert "StochasticWeightAveraging replaced the trained weights" in ended.out
    assert same(weights(swapped, "best"), weights(swapped, "last"))
    assert not same(weights(swapped, "best"), weights(plain, "last"))
    assert record["metrics"]["test"] == evaluated(tmp_path, swapped)
    assert record["metrics"]["best"].items() <= record["metrics"]["last"].items()


REASONS = {
    "no improvement": ("monitor: val/loss, patience: 1, min_delta: 10", "val/loss did not improve for 1 epoch"),
    "good enough": ("monitor: val/acc, mode: max, stopping_threshold: 0.0", "val/acc"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_an_early_stop_says_why(tmp_path, kind):
    settings, reason = REASONS[kind]
    stop = f"callbacks.stop={{_target_: {CALLBACKS}.EarlyStopping, {settings}}}"
    folder, record, ended = train(tmp_path, "run", stop, "trainer.max_epochs=9")
    last = ended.out.splitlines()[-1]
    assert last.startswith("stopped early after epoch ")
    assert reason in last
    assert record["status"] == "done"
    assert record["reason"] == last
    assert last in (folder / "train.log").read_text()


MISSING = {
    "checkpoint.monitor=val/nope": ["checkpoint.monitor=val/nope", "checkpoint.mode=max"],
    "callbacks.stop.monitor=val/nope": [f"callbacks.stop={{_target_: {CALLBACKS}.EarlyStopping, monitor: val/nope}}"],
}


@pytest.mark.parametrize("key", MISSING)
def test_a_metric_that_is_never_there_is_told_before_the_first_step(tmp_path, key):
    ended = run(tmp_path, "train", *SHORT, "logger=none", f"hydra.run.dir={tmp_path}/run", *MISSING[key])
    assert ended.code == 2
    assert ended.err == f"train: {key}: no such metric; validation logs val/acc, val/loss\n"
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_training_that_ends_before_its_first_validation_is_validated_at_the_end(tmp_path):
    for number, limit in enumerate(("trainer.max_steps=5", "trainer.check_val_every_n_epoch=3")):
        folder, record, _ = train(tmp_path, str(number), limit)
        assert record["metrics"]["best"].keys() == {"val/loss", "val/acc"}
        assert same(weights(folder, "best"), weights(folder, "last"))
