"""Stochastic weight averaging goes on where it was stopped."""

import pytest
from conftest import settings, train
from lightning.pytorch import Callback

from litlab.checks.subject import difference, final
from litlab.errors import Pruned

pytestmark = pytest.mark.usefixtures("mnist_dir")


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Pruned("enough")


def of(*overrides):
    return settings(
        "trainer=cpu", "trainer.max_epochs=4", "trainer.limit_train_batches=6", "trainer.limit_val_batches=1",
        "callbacks=swa", "callbacks.swa.swa_epoch_start=1", "callbacks.swa.swa_lrs=0.02",
        "callbacks.swa.annealing_epochs=3", "checkpoint.every_n_steps=1", "test=false", "views=none", "logger=none",
        *overrides,
    )  # fmt: skip


@pytest.mark.parametrize("schedule", ["none", "cosine"])
@pytest.mark.parametrize("step", [4, 9, 18, 21])
def test_it_goes_on_exactly_in_each_of_its_epochs(tmp_path, schedule, step):
    config = of(f"scheduler={schedule}", "++scheduler.interval=epoch" if schedule != "none" else "seed=42")
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Pruned):
        train(config, tmp_path / "stopped", callbacks=[StopAt(step)])
    resumed = train(config, tmp_path / "stopped")
    assert difference(final(resumed), final(whole)) is None
    assert final(resumed)["lr_schedulers"][0]["anneal_epochs"] == 3
