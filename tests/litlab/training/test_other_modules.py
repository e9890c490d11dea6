"""Modules of other people's kind train, are evaluated, and end after resuming as if they had never stopped."""

import json

import other_modules
import pytest
import torch
from conftest import settings, train
from lightning.pytorch import Callback

from litlab.errors import Pruned
from litlab.inference.evaluate import evaluate

CASES = {
    "Basic": ("Points", "val_loss"),
    "GAN": ("Points", "val_loss"),
    "WithLBFGS": ("Points", "val_loss"),
    "OwnSchedule": ("Points", "val_loss"),
    "ByNames": ("Named", "val_loss"),
    "Untested": ("Points", None),
    "ManyLoaders": ("Several", "val_loss/dataloader_idx_0"),
    "Normalized": ("Points", "val_loss"),
    "Shared": ("Points", "val_loss"),
    "FrozenBackbone": ("Points", "val_loss"),
    "Measured": ("Points", "val/acc"),
    "Hooked": ("Points", "val_loss"),
    "streamed": ("Streamed", "val_loss"),
    "shuffled": ("Shuffled", "val_loss"),
    "read by workers": ("Shuffled", "val_loss"),
}
"""Modules by their names, with their data and what is monitored; the last ones are a Basic."""


class StopAt(Callback):
    """Ends the training in the middle of an epoch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            raise Pruned("enough")


def of(name):
    """The settings of a training of this module."""
    data, monitor = CASES[name]
    module = name if hasattr(other_modules, name) else "Basic"
    return settings(
        "trainer=cpu",
        "trainer.max_epochs=3",
        "~data", f"++data._target_=other_modules.{data}",
        "~model", f"++model._target_=other_modules.{module}",
        "optimizer=none", "views=none", "logger=csv", "checkpoint.every_n_steps=1",
        f"checkpoint.monitor={monitor or 'null'}", f"checkpoint.mode={'min' if monitor else 'null'}",
        *(["++data.workers=2"] if name == "read by workers" else []),
    )  # fmt: skip


def final(run):
    """The weights, statistics included, and the state of the optimizers at the end of a run."""
    checkpoint = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"], checkpoint["optimizer_states"], checkpoint["lr_schedulers"]


def measured(run):
    """What the record says was measured, without the speed."""

    def exact(value):
        if isinstance(value, dict):
            return {key: exact(inner) for key, inner in value.items() if key != "examples_per_second"}
        return [exact(inner) for inner in value] if isinstance(value, list) else value

    return exact(json.loads((run.folder / "run.json").read_text())["metrics"])


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
@pytest.mark.filterwarnings("ignore:Found 1 module")  # in eval mode, as a frozen backbone is meant to be
@pytest.mark.parametrize("name", CASES)
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
