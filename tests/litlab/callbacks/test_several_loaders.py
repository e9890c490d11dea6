import json

import pytest
import torch
from conftest import settings, train

from digits.classifier import Classifier
from digits.mnist import MNISTDataModule
from litlab.config.components import build
from litlab.errors import UserError
from litlab.runs.checkpoint import load_weights
from litlab.training.build import build_module
from litlab.views.confusion import ConfusionMatrix

CPU = (
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.limit_train_batches=10",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "trainer.max_epochs=2",
    "logger=none",
    "views=confusion",
    "checkpoint.mode=max",
)
LOADERS = ("dataloader_idx_0", "dataloader_idx_1")


@pytest.fixture
def two_loaders(mnist_dir, monkeypatch):
    """Let validation and test each have two loaders, of held-out and of test images, and the module know of it."""
    held_out, tested = MNISTDataModule.val_dataloader, MNISTDataModule.test_dataloader

    def step(stage):
        def measured(self, batch, batch_idx, dataloader_idx=0):
            images, labels = batch
            logits = self(images)
            self.log(f"{stage}/acc", (logits.argmax(1) == labels).float().mean(), batch_size=len(labels))
            return {"scores": logits, "targets": labels, "inputs": images}

        return measured

    monkeypatch.setattr(MNISTDataModule, "val_dataloader", lambda data: [held_out(data), tested(data)])
    monkeypatch.setattr(MNISTDataModule, "test_dataloader", lambda data: [tested(data), held_out(data)])
    monkeypatch.setattr(Classifier, "validation_step", step("val"))
    monkeypatch.setattr(Classifier, "test_step", step("test"))


def answers(config, run):
    """For the two loaders of the test: labels, and the classes that the best weights find."""
    module, data = build_module(config), build(config.data)
    load_weights(module, run.best_checkpoint())
    data.setup("fit")
    data.setup("test")
    for loader in data.test_dataloader():
        with torch.no_grad():
            batches = [data.on_after_batch_transfer(batch, 0) for batch, _ in zip(loader, range(2), strict=False)]
            yield torch.cat([labels for _, labels in batches]), torch.cat([module(x).argmax(1) for x, _ in batches])


@pytest.mark.parametrize("monitor", [f"val/acc/{loader}" for loader in LOADERS])
def test_each_loader_is_measured_under_its_own_name(two_loaders, tmp_path, monkeypatch, monitor):
    drawn = {}
    monkeypatch.setattr(ConfusionMatrix, "_draw", lambda view, _, stage: drawn.update({stage: view.counts.sum()}))
    config = settings(*CPU, f"checkpoint.monitor={monitor}")
    run = train(config, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())["metrics"]
    names = {f"val/acc/{loader}" for loader in LOADERS}
    assert [validation["metrics"].keys() for validation in record["validations"]] == [names, names]
    assert record["best"][monitor] == max(validation["metrics"][monitor] for validation in record["validations"])
    for loader, (labels, found) in zip(LOADERS, answers(config, run), strict=True):
        assert record["test"][f"test/acc/{loader}"] == pytest.approx((labels == found).double().mean().item())
        for digit in range(10):
            expected = (found[labels == digit] == digit).double().mean().item()
            assert record["test_by_class"][f"{digit}/{loader}"] == pytest.approx(expected)
    assert drawn == {"val": 1000, "test": 1000}  # two batches of 500 from the first loader


def test_a_monitor_without_the_loader_is_told_the_names(two_loaders, tmp_path):
    with pytest.raises(UserError, match="val/acc: no such metric; validation logs val/acc/dataloader_idx_0, val/acc/d"):
        train(settings(*CPU, "checkpoint.monitor=val/acc"), tmp_path)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_a_metric_object_that_would_mix_the_loaders_is_refused(two_loaders, tmp_path, monkeypatch, stage):
    def step(self, batch, batch_idx, dataloader_idx=0):
        self.val_accuracy(self(batch[0]), batch[1])
        self.log(f"{stage}/acc", self.val_accuracy, on_epoch=True)

    monkeypatch.setattr(Classifier, {"val": "validation_step", "test": "test_step"}[stage], step)
    with pytest.raises(UserError, match=f"{stage}/acc: one metric object is logged for several loaders"):
        train(settings(*CPU, "checkpoint.monitor=val/acc/dataloader_idx_0"), tmp_path)
