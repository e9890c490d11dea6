"""What does not fit is told in one line before the first step; what fits, in any kind of task, is left alone."""

import re
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from digits.classifier import Classifier
from digits.convnet import ConvNet
from litlab.callbacks.first_batch import FirstBatch, telling_of_labels
from litlab.data.memory import InMemoryLoader
from litlab.data.order import EpochSampler
from litlab.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:You ", "ignore:Using a target size")

MODEL = {"net": {"in_channels": 1, "image_size": 28, "num_classes": 10}, "channels_last": False}
DATA = {"_target_": "mine.Data", "batch_size": 10, "drop_last": False}


def images(*shape, dtype=torch.float32):
    return torch.rand(shape or (30, 1, 28, 28)).mul(255 if dtype == torch.uint8 else 1).to(dtype)


def labels(low=0, high=9, dtype=torch.int64):
    return (torch.arange(30) % (high - low + 1) + low).to(dtype)


def classifier(channels_last=False, optimizer=torch.optim.Adam, **net):
    model = {**MODEL, "net": {**MODEL["net"], **net}, "channels_last": channels_last}
    return Classifier(ConvNet(**model["net"]), channels_last, partial(optimizer, lr=0.01)), model


def make_trainer(*callbacks, sanity=0):
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=sanity,
        limit_val_batches=sanity,
    )


class Data(LightningDataModule):
    """Batches as they are given."""

    def __init__(self, train, val, names=None):
        super().__init__()
        self.class_names = names
        self.train_dataloader = lambda: train
        if val is not None:
            self.val_dataloader = lambda: val


def fit(module, tensors, model=MODEL, data=DATA, names=None, loader=DataLoader, sanity=0, batch_size=10):
    seed_everything(0, verbose=False)
    val = train = DataLoader(TensorDataset(*tensors), batch_size)
    if loader is InMemoryLoader:
        train = InMemoryLoader(*tensors, batch_size=batch_size, sampler=EpochSampler(len(tensors[0]), 0, shuffle=False))
    trainer = make_trainer(FirstBatch(data, model), sanity=sanity)
    with telling_of_labels():
        trainer.fit(module, datamodule=Data(train, val if sanity else None, names))


SOURCE = "data._target_=mine.Data: "
LABELS = {
    "from 1": (labels(1, 10), "the labels are from 1 to 10, expected 0 to 9, the network's 10 classes; subtract 1"),
    "too many": (labels(5, 14), "the labels are from 5 to 14, expected 0 to 9, .*; set model.net.num_classes=15"),
    "below 0": (labels(-1, 8), "the labels are from -1 to 8, expected 0 to 9, .*; none may be below 0"),
    "int32": (
        labels(dtype=torch.int32),
        r"the labels are int32 \(10,\), expected int64 \(10,\), .*give labels.long\(\)",
    ),
    "int16": (labels(dtype=torch.int16), r"the labels are int16 \(10,\), .*give labels.long\(\)"),
    "float": (labels(dtype=torch.float32), r"the labels are float32 \(10,\), .*give labels.long\(\)"),
    "bool": (labels(0, 1, dtype=torch.bool), r"the labels are bool \(10,\), .*give labels.long\(\)"),
    "column": (labels()[:, None], r"the labels are int64 \(10, 1\), expected int64 \(10,\), .*labels.squeeze\(1\)"),
    "float column": (labels()[:, None].float(), r"float32 \(10, 1\), expected int64 .*labels.squeeze\(1\).long\(\)"),
    "one-hot": (functional.one_hot(labels()), r"int64 \(10, 10\), expected int64 \(10,\), .*labels.argmax\(1\)"),
    "float one-hot": (
        functional.one_hot(labels()).float(),
        r"float32 \(10, 10\), .*int64 \(10,\), such as labels.argmax",
    ),
}


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize("kind", LABELS)
def test_labels(kind, sanity):
    found, line = LABELS[kind]
    module, model = classifier()
    with pytest.raises(UserError, match=re.escape(SOURCE) + ".*" + line):
        fit(module, (images(), found), model, sanity=sanity)


@pytest.mark.parametrize("name", ["validate", "test"])
def test_labels_of_what_is_only_evaluated(name):
    module, model = classifier()
    module.test_step = module.validation_step
    loader = DataLoader(TensorDataset(images(), labels(1, 10)), 10)
    with pytest.raises(UserError, match="the labels are from 1 to 10, expected 0 to 9"):
        getattr(make_trainer(FirstBatch(DATA, model), sanity=1), name)(module, loader)


def test_labels_of_later_batches_are_told_first():
    late = labels(0, 8)
    late[-1] = 12
    module, model = classifier()
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    with pytest.raises(UserError, match="the labels are from 0 to 12, expected 0 to 9"):
        fit(module, (images(), late), model, loader=InMemoryLoader)
    assert all(weight.equal(before[name]) for name, weight in module.named_parameters())
    with pytest.raises(UserError, match="a batch holds the label 12, for which the network has no score"):
        fit(module, (images(), late), model)


def test_a_metric_that_comes_before_the_loss():
    class MetricFirst(Classifier):
        def validation_step(self, batch, batch_idx):
            self.val_accuracy(self(batch[0]), batch[1])

    module = MetricFirst(ConvNet(), False, partial(torch.optim.Adam, lr=0.01))
    with pytest.raises(UserError, match=r"the labels are int64 \(10, 1\), expected int64 \(10,\)"):
        fit(module, (images(), labels()[:, None]), sanity=1)


def test_names_of_classes():
    module, model = classifier(num_classes=12)
    with pytest.raises(
        UserError, match=r"^the data has 3 classes \(a, b, c\), the network 12; set model.net.num_classes=3$"
    ):
        fit(module, (images(), labels(0, 2)), model, names=["a", "b", "c"])


INPUTS = {
    "classes": (
        {"num_classes": 9},
        images(),
        "labels are from 0 to 9, expected 0 to 8, .*set model.net.num_classes=10",
    ),
    "size": (
        {"image_size": 32},
        images(),
        r"^model.net.image_size=32: net.out \(Linear\) takes 2048 features and gets 1568, as the images are 28x28; "
        "set model.net.image_size=28$",
    ),
    "channels": (
        {"in_channels": 3},
        images(),
        r"^model.net.in_channels=3: net.conv1.0 \(Conv2d\) takes 3 channels and gets float32 \(10, 1, 28, 28\), with 1"
        "; set model.net.in_channels=1$",
    ),
    "colour": (
        {},
        images(30, 3, 28, 28),
        r"^model.net.in_channels=1: .* takes 1 channels .*; set model.net.in_channels=3$",
    ),
    "oblong": (
        {},
        images(30, 1, 28, 36),
        "takes 1568 features and gets 2016, as the images are 28x36; bring the images",
    ),
    "bytes": (
        {},
        images(dtype=torch.uint8),
        r"computes with float32 and gets uint8 \(10, 1, 28, 28\); .*float\(\) / 255",
    ),
    "doubles": ({}, images(dtype=torch.float64), r"computes with float32 and gets float64 .*; give .float\(\)"),
    "no channels": ({}, images(30, 28, 28), r"and gets float32 \(10, 28, 28\); give images.unsqueeze\(1\)"),
    "channels last": (
        {},
        images(30, 28, 28, 1),
        r"the channels come before height and width: give images.movedim\(-1, 1\)",
    ),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs(kind):
    net, found, line = INPUTS[kind]
    module, model = classifier(**net)
    with pytest.raises(UserError, match=line):
        fit(module, (found, labels()), model)


class Task(LightningModule):
    """Any network and loss."""

    def __init__(self, net, loss, optimizer=torch.optim.SGD):
        super().__init__()
        self.net, self.loss, self.optimizer, self.steps = net, loss, optimizer, 0

    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            inputs, targets = batch["x"], batch["y"]
        else:
            inputs, targets = batch[0], batch[-1]
        self.steps += 1
        return self.loss(self.net(inputs), targets)

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.1)


ROWS = torch.rand(21, 4)


def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Flatten(0))


@pytest.mark.parametrize("loader", [DataLoader, InMemoryLoader])
def test_batch_normalization_of_one_example(loader):
    line = "the last training batch has 1 example, .*; set data.drop_last=true or another data.batch_size"
    module = Task(normed(), nn.MSELoss())
    with pytest.raises(UserError, match=line):
        fit(module, (ROWS, torch.rand(21)), loader=loader)
    assert module.steps == 1
    with pytest.raises(UserError, match="a training batch has 1 example"):
        fit(Task(normed(), nn.MSELoss()), (ROWS, torch.rand(21)), loader=loader, batch_size=1)
    module = Task(normed(), nn.MSELoss())
    fit(module, (ROWS[:20], torch.rand(20)), loader=loader)
    assert module.steps == 2


def test_lbfgs_takes_contiguous_weights():
    module, model = classifier(channels_last=True, optimizer=torch.optim.LBFGS)
    with pytest.raises(UserError, match="LBFGS takes weights that are contiguous, .*; set model.channels_last=false"):
        fit(module, (images(), labels()), model)


COLUMN = nn.Linear(4, 1)
MISFITS = {
    "binary column": (
        COLUMN,
        nn.BCEWithLogitsLoss(),
        torch.rand(21),
        r"float32 \(10,\), and binary_.* expects .*\(10, 1\)",
    ),
    "binary whole": (COLUMN, nn.BCEWithLogitsLoss(), torch.ones(21, 1).long(), r"int64 .*give targets.float\(\)"),
    "each with each": (COLUMN, nn.MSELoss(), torch.rand(21), r"\(10,\), and mse_loss expects float32 \(10, 1\)"),
    "absolute": (COLUMN, nn.L1Loss(), torch.rand(21, 3, 1), r"and l1_loss expects float32 \(10, 1\)"),
    "whole numbers": (COLUMN, nn.HuberLoss(), torch.ones(21, 1).long(), r"int64 .*give targets.float\(\)"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_targets(kind):
    net, loss, targets, line = MISFITS[kind]
    with pytest.raises(UserError, match=line):
        fit(Task(net, loss), (ROWS, targets))


def contrastive(scores, _):
    return functional.cross_entropy(scores @ scores.T, torch.arange(len(scores)))


def smoothed(scores, targets):
    return functional.cross_entropy(scores, functional.one_hot(targets, 4).float(), label_smoothing=0.1)


def ignoring(scores, targets):
    return functional.cross_entropy(scores, torch.where(targets == 0, -100, targets))


FINE = {
    "regression": (nn.Linear(4, 2), nn.MSELoss(), torch.rand(21, 2)),
    "regression of whole numbers": (COLUMN, nn.MSELoss(), torch.ones(21, 1).long()),
    "autoencoder": (nn.Sequential(nn.Linear(4, 4)), nn.MSELoss(), ROWS),
    "against one number": (COLUMN, lambda answers, _: functional.mse_loss(answers, torch.zeros(1)), ROWS),
    "contrastive": (nn.Linear(4, 3), contrastive, torch.arange(21) % 4),
    "soft labels": (nn.Linear(4, 4), smoothed, torch.arange(21) % 4),
    "probabilities": (nn.Linear(4, 4), nn.CrossEntropyLoss(), torch.rand(21, 4).softmax(1)),
    "ignored": (nn.Linear(4, 4), ignoring, torch.arange(21) % 4),
    "bytes": (nn.Linear(4, 4), nn.CrossEntropyLoss(), (torch.arange(21) % 4).byte()),
    "pixels": (nn.Unflatten(1, (2, 2)), lambda a, t: nn.CrossEntropyLoss()(a * torch.ones(1, requires_grad=True), t),
               torch.ones(21, 2).long()),
    "binary": (COLUMN, nn.BCEWithLogitsLoss(), torch.ones(21, 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FINE)
def test_nothing_is_said_of_what_fits(kind):
    net, loss, targets = FINE[kind]
    module = Task(nn.Sequential(net, nn.Identity()), loss)
    module.scale = nn.Parameter(torch.ones(1))  # so that there is something to optimize
    fit(module, (ROWS, targets), names=["a", "b", "c", "d"], data={})
    assert module.steps == 3


def test_batches_that_are_dictionaries():
    batches = DataLoader([{"x": row, "y": index % 4} for index, row in enumerate(ROWS)], 10)
    module = Task(nn.Linear(4, 4), nn.CrossEntropyLoss())
    make_trainer(FirstBatch({}, {})).fit(module, batches)
    assert module.steps == 3
    with pytest.raises(UserError, match="the labels are from 0 to 3, expected 0 to 1, .*; the network needs 4 outputs"):
        make_trainer(FirstBatch({}, {})).fit(Task(nn.Linear(4, 2), nn.CrossEntropyLoss()), batches)


def test_a_users_own_error_keeps_its_traceback():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(9, 1)

        def forward(self, rows):
            return self.second(self.first(rows))

    with pytest.raises(RuntimeError, match="mat1 and mat2") as error:
        fit(Task(Wrong(), nn.MSELoss()), (ROWS, torch.rand(21, 1)), model={})
    assert error.value.__notes__ == [
        "data._target_=mine.Data: net.second (Linear) cannot take float32 (10, 8): "
        "mat1 and mat2 shapes cannot be multiplied (10x8 and 9x1)"
    ]


def test_nothing_is_computed_otherwise():
    weights = []
    for callbacks in ([], [FirstBatch(DATA, MODEL)]):
        seed_everything(1, verbose=False)
        module, _ = classifier()
        trainer = make_trainer(*callbacks, sanity=1)
        batches = DataLoader(TensorDataset(images(), labels()), 10)
        trainer.fit(module, batches, batches)
        assert not {"training_step", "validation_step"} & vars(trainer.strategy).keys()
        weights.append([weight.detach() for weight in module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
