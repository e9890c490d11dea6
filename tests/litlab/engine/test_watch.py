import logging
import random

import numpy as np
import pytest
import torch
from runs import PLAIN, TEN, fit, graphs, said
from tape import Tape
from torch.optim.lr_scheduler import LinearLR, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from digits.classifier import Classifier
from litlab.engine.graphs.captured import batch_obstacle

pytestmark = pytest.mark.usefixtures("mnist_dir")


def stepping(before=lambda self, batch, index: None, after=lambda self, loss, index: loss):
    """A module that does something before and after its loss is computed."""

    class Changed(Classifier):
        def training_step(self, batch, batch_idx):
            before(self, batch, batch_idx)
            return after(self, super().training_step(batch, batch_idx), batch_idx)

    return Changed


def counts(self, *_):
    self.count = getattr(self, "count", 0) + 1


def appends(self, loss, _):
    self.kept = [*getattr(self, "kept", []), loss.item() if len(getattr(self, "kept", [])) < 0 else 0.0]
    return loss


def averages(self, loss, _):
    self.average = 0.9 * getattr(self, "average", 0.0) + 0.1 * loss.detach()
    return loss


def measures(self, batch, _):
    if not hasattr(self, "seen"):
        self.seen = MulticlassAccuracy(num_classes=10)
    self.seen.update(torch.zeros(len(batch[1]), 10), batch[1])


PYTHON = {
    "a step waits for the device at test_watch.py:": stepping(
        after=lambda self, loss, _: loss if loss.item() else None
    ),
    "batch is logged as a number that Python knows, which a graph would not change": stepping(
        lambda self, batch, index: self.log("batch", index)
    ),
    "a step draws random numbers on the CPU, by Python's generator": stepping(
        after=lambda self, loss, _: loss * random.uniform(0.5, 1.5)
    ),
    "a step draws random numbers on the CPU, by NumPy's generator": stepping(
        after=lambda self, loss, _: loss * float(np.random.uniform(0.5, 1.5))
    ),
    "training_step reads trainer.global_step": stepping(
        after=lambda self, loss, _: loss * (1 + self.global_step / 100)
    ),
    "training_step reads trainer.current_epoch": stepping(
        after=lambda self, loss, _: loss * (1 + self.trainer.current_epoch)
    ),
    "training_step reads trainer.is_last_batch": stepping(
        after=lambda self, loss, _: loss * (2 if self.trainer.is_last_batch else 1)
    ),
    "training_step reads batch_idx": stepping(after=lambda self, loss, index: loss if index % 3 else 2 * loss),
    "training_step reads batch_idx ": stepping(after=lambda self, loss, index: loss * index),
    "a step changes self.count in Python": stepping(counts),
    "a step changes self.kept in Python": stepping(after=appends),
    "a step changes self.average in Python": stepping(after=averages),
    "a step changes seen.": stepping(measures),
}


@pytest.mark.parametrize("reason", PYTHON)
def test_what_python_decides_is_found_before_the_capture(tmp_path, tape, eager, caplog, reason):
    expected = eager(tmp_path, *PLAIN, module_class=PYTHON[reason])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *PLAIN, module_class=PYTHON[reason], steps=7)
    (message,) = said(caplog)
    assert message.startswith(f"no CUDA graph: {reason.strip()}")
    assert graphs(tried).summary() == f"none: {message.removeprefix('no CUDA graph: ')}"
    assert not any(made.is_captured for made in tape)
    assert torch.equal(tried.weights(), expected.weights())
    assert tried.curves.points == expected.curves.points


def mixed(self, batch):
    images, labels = v2.MixUp(num_classes=10)(*batch)
    return self.train_loss(self(images), labels)


def flipped(self, batch):
    return self.train_loss(self(v2.RandomHorizontalFlip()(batch[0])), batch[1])


def drawn(self, batch):
    return self.train_loss(self(batch[0]), batch[1]) * torch.rand(1)[0]


@pytest.mark.parametrize("loss", [mixed, flipped, drawn])
def test_what_torch_draws_on_the_cpu_is_found_where_the_device_is_another(tmp_path, tape, caplog, monkeypatch, loss):
    class Draws(Classifier):
        def training_step(self, batch, batch_idx):
            return loss(self, batch)

    monkeypatch.setattr(Tape, "generator", torch.Generator())
    with caplog.at_level(logging.INFO):
        fit(tmp_path, *PLAIN, module_class=Draws, steps=7)
    assert said(caplog) == ["no CUDA graph: a step draws random numbers on the CPU, by torch's CPU generator"]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([torch.ones(2, device="meta"), {"length": 3, "name": "a", "weight": None}], None),
        ([torch.ones(2)], "a batch holds a tensor on the cpu"),
        ([torch.ones(2, device="meta"), object()], "a batch holds a object"),
    ],
)
def test_only_what_lies_on_the_device_is_captured(batch, reason):
    assert batch_obstacle(batch, torch.device("meta")) == reason


OPTIMIZERS = {
    "SGD": "SGD computes in Python what changes from step to step; optimizer.fused=true does not",
    "Adagrad": "Adagrad computes in Python what changes from step to step",
    "Adafactor": "Adafactor computes in Python what changes from step to step",
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Rprop", "ASGD", "Adadelta")),
}


@pytest.mark.parametrize(("name", "fused"), [*((name, False) for name in OPTIMIZERS), ("SGD", True), ("AdamW", True)])
def test_every_optimizer_is_captured_or_named(tmp_path, tape, eager, caplog, name, fused):
    options = {"fused": True} if fused else {"foreach": True}  # what a GPU takes by itself

    class With(Classifier):
        def configure_optimizers(self):
            optimizer = getattr(torch.optim, name)(self.parameters(), lr=0.01, **options)
            return [optimizer], [{"scheduler": LinearLR(optimizer), "interval": "step"}]

    settings = [*PLAIN, "trainer.max_epochs=1", "trainer.gradient_clip_val=null"]
    expected = eager(tmp_path, *settings, module_class=With)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, module_class=With, steps=7)
    reason = None if fused else OPTIMIZERS[name]
    assert said(caplog) == ([f"no CUDA graph: {reason}"] if reason else [])
    assert graphs(tried).replayed + graphs(tried).checked == (0 if reason else 6)
    assert torch.equal(tried.weights(), expected.weights())


class Counting(torch.optim.AdamW):
    """Counts its steps in Python."""

    def step(self, closure=None):
        result = super().step(closure)
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["done"] = self.state[weight].get("done", 0) + 1
        return result


def test_an_optimizer_that_counts_in_python_is_found(tmp_path, tape, caplog):
    class Counted(Classifier):
        def configure_optimizers(self):
            return Counting(self.parameters())

    with caplog.at_level(logging.INFO):
        fit(tmp_path, *PLAIN, module_class=Counted, steps=7)
    assert said(caplog) == ["no CUDA graph: a step changes the optimizer's done of net.conv1.0.weight in Python"]


def test_a_schedule_that_moves_the_momentum_too_ends_the_graph(tmp_path, tape, eager, caplog, monkeypatch):
    def with_momentum(self, optimizer, total_steps, warmup):
        OneCycleLR.__init__(self, optimizer, max_lr=0.01, total_steps=total_steps)

    monkeypatch.setattr("litlab.schedulers.OneCycle.__init__", with_momentum)
    expected = eager(tmp_path, *TEN)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *TEN, steps=7)
    assert said(caplog) == ["no CUDA graph: the schedule changes more than the learning rate"]
    assert torch.equal(tried.weights(), expected.weights())
