"""Nothing is taken for a classifier that does not say it is one, and no view ends or distorts a training."""

import pytest
import torch
from conftest import settings
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from litlab.callbacks.class_accuracy import ClassAccuracy
from litlab.callbacks.guard import guarded, undisturbed
from litlab.callbacks.predictions import NO_CLASS, Predicted, classified
from litlab.config.components import build
from litlab.loggers import TensorBoard
from litlab.runs.run import Run

IMAGES, TARGETS, SCORES = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.eye(3)[[0, 1, 2, 1]]
NOTHING = {
    "nothing": None,
    "a loss": torch.tensor(1.0),
    "scores alone": {"scores": SCORES},
    "one number an image": {"scores": torch.rand(4), "targets": torch.rand(4)},
    "one score": {"scores": torch.rand(4, 1), "targets": TARGETS},
    "32 outputs of an autoencoder": {"scores": torch.rand(4, 32), "targets": torch.rand(4, 32)},
    "several labels an image": {"scores": torch.rand(4, 3), "targets": torch.ones(4, 3).long()},
    "a segmentation": {"scores": torch.rand(4, 3, 8, 8), "targets": torch.ones(4, 8, 8).long()},
    "yes or no": {"scores": torch.rand(4, 3), "targets": torch.ones(4).bool()},
    "numbers": {"scores": torch.rand(4, 3), "targets": torch.rand(4)},
    "another count": {"scores": torch.rand(5, 3), "targets": TARGETS},
    "words": {"scores": "many", "targets": "few"},
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_is_not_a_classifiers_is_not_looked_at(kind):
    assert classified(NOTHING[kind]) is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_what_is_a_classifiers_is(dtype):
    found = classified({"scores": SCORES.half(), "targets": TARGETS.to(dtype), "inputs": IMAGES, "loss": 3})
    assert isinstance(found, Predicted)
    assert found.classes.tolist() == [0, 1, 2, 1]
    assert torch.equal(found.targets, TARGETS)
    assert found.images is IMAGES
    unsure = classified({"scores": torch.tensor([[0.0, torch.nan], [1.0, 0.0]]), "targets": torch.tensor([0, 0])})
    assert unsure.classes.tolist() == [NO_CLASS, 0]
    assert unsure.images is None
    ignored = classified({"scores": SCORES, "targets": torch.tensor([0, -100, 2, 0]), "inputs": IMAGES})
    assert ignored.targets.tolist() == [0, 2, 0]
    assert torch.equal(ignored.images, IMAGES[[0, 2, 3]])


class Net(LightningModule):
    """Convolution, batch normalization and dropout; says in its steps what it is asked to."""

    def __init__(self, says):
        super().__init__()
        self.says = says
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)
        )

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        scores = self(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(scores, batch[1]))
        return self.says(scores, batch)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Failing(Callback):
    """Fails, after it has drawn random numbers and changed the mode of the network."""

    def on_validation_end(self, trainer, pl_module):
        torch.rand(7)
        raise ZeroDivisionError("no such picture")


SAYS = {
    "a classifier": lambda scores, batch: {"scores": scores, "targets": batch[1], "inputs": batch[0]},
    "nothing": lambda scores, batch: None,
    "one number": lambda scores, batch: {"scores": scores[:, 0], "targets": batch[1], "inputs": batch[0]},
    "NaN": lambda scores, batch: {"scores": scores * torch.nan, "targets": batch[1], "inputs": batch[0]},
    "too few scores": lambda scores, batch: {"scores": scores[:, :2], "targets": batch[1], "inputs": batch[0]},
    "inputs of another kind": lambda scores, batch: {"scores": scores, "targets": batch[1], "inputs": [1, 2]},
}


def trained(says, folder, watchers):
    """The weights after two epochs."""
    seed_everything(0, verbose=False)
    module = Net(says)
    logger = TensorBoard(folder, "", "", default_hp_metric=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, callbacks=watchers, logger=logger, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, torch.arange(32) % 3)
    trainer.fit(module, DataLoader(data, 8, shuffle=True), DataLoader(data, 8))
    trainer.test(module, DataLoader(data, 8), verbose=False)
    return module.state_dict()


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The 'test_dataloader' does not have many workers")
@pytest.mark.parametrize("kind", SAYS)
def test_views_neither_end_nor_change_a_training(kind, tmp_path, caplog):
    views = {name: build(node) for name, node in settings().views.items()}
    run = Run.create(tmp_path, 0)
    watchers = [guarded(f"views.{name}", view) for name, view in views.items()]
    watchers += [guarded("accuracy of each class", ClassAccuracy(run)), guarded("views.failing", Failing())]
    alone, watched = (trained(SAYS[kind], tmp_path / name, some) for name, some in (("a", []), ("b", watchers)))
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    warned = [record.getMessage() for record in caplog.records if "left out from here on" in record.getMessage()]
    assert sum(line.startswith("views.failing: ZeroDivisionError: no such picture (") for line in warned) == 1
    assert len(warned) == len({line.partition(":")[0] for line in warned})


def test_parts_that_run_undisturbed_leave_no_trace():
    module = Net(SAYS["nothing"]).train()
    before, state = {name: value.clone() for name, value in module.state_dict().items()}, torch.get_rng_state()
    with undisturbed(module):
        module(torch.rand(4, 1, 8, 8))
        module.eval()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in module.modules())
