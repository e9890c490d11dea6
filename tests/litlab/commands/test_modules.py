"""LightningModules that know nothing of the lab train as they are."""

import json

import pytest
from conftest import SHORT
from processes import run

import digits.classifier
from digits.classifier import Classifier
from digits.convnet import ConvNet

pytestmark = pytest.mark.usefixtures("mnist_dir")


class OwnOptimizer(Classifier):
    """Makes its own optimizer, and has no test."""

    def __init__(self, width: int) -> None:
        super().__init__(ConvNet(channels=[width, width]), channels_last=False, optimizer=lambda _: None)

    def configure_optimizers(self):
        import torch

        return torch.optim.SGD(self.parameters(), lr=0.1)


class Untested(OwnOptimizer):
    """Has no test."""


Untested.test_step = digits.classifier.LightningModule.test_step


def use(module):
    """What prepares a process in which a class of that name is to be found."""

    def prepare():
        digits.classifier.Mine = module

    return prepare


MINE = "model={_target_: digits.classifier.Mine, width: 4}"


def train(tmp_path, module, *overrides):
    arguments = [*SHORT, "~model", f"+{MINE}", "logger=none", f"hydra.run.dir={tmp_path}/run", *overrides]
    return run(tmp_path, "train", *arguments, prepare=use(module))


@pytest.fixture(autouse=True)
def _named(monkeypatch):
    # The source of a class is looked for before the class is imported.
    monkeypatch.setattr("litlab.components._may_have", lambda module, name: name == "Mine")


@pytest.mark.parametrize("overrides", [["optimizer=none"], []])
def test_a_module_that_makes_its_own_optimizer(tmp_path, overrides):
    ended = train(tmp_path, OwnOptimizer, *overrides)
    assert ended.code == 0, ended.err
    assert ("optimizer: digits.classifier.Mine takes none and makes its own" in ended.out) == (not overrides)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]["test"].keys() == {
        "test/loss",
        "test/acc",
    }


def test_a_module_without_a_test(tmp_path):
    ended = train(tmp_path, Untested, "optimizer=none")
    assert ended.code == 0, ended.err
    assert "test: Untested has no test_step, so the best weights are not tested\n" in ended.out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]["test"] == {}


def test_what_a_module_does_not_take_is_refused(tmp_path):
    ended = train(tmp_path, OwnOptimizer, "optimizer=none", "scheduler=cosine")
    assert ended.code == 2
    assert ended.err == (
        "train: scheduler: digits.classifier.Mine takes no argument of that name; leave it out by scheduler=none\n"
    )
