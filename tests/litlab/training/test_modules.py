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


class Faulty(OwnOptimizer):
    """Makes a mistake of its own."""

    def training_step(self, batch, batch_idx):
        raise KeyError("my own mistake")


class LogsWhatCannotBe(OwnOptimizer):
    """Logs a dictionary under one name."""

    def training_step(self, batch, batch_idx):
        self.log("x", {"a": 1.0})


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
    monkeypatch.setattr("litlab.config.signatures._may_have", lambda module, name: name == "Mine")


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


def test_an_error_of_ones_own_is_in_the_log_with_its_lines(tmp_path):
    ended = train(tmp_path, Faulty, "optimizer=none", "test=false")
    log = (tmp_path / "run" / "train.log").read_text()
    for text in (ended.err, log):
        assert f'File "{__file__}"' in text
        assert 'raise KeyError("my own mistake")' in text
        assert text.count("Traceback") == 1


def test_what_lightning_refuses_of_ones_own_call_names_the_line(tmp_path):
    ended = train(tmp_path, LogsWhatCannotBe, "optimizer=none", "test=false")
    code = LogsWhatCannotBe.training_step.__code__
    line = (
        f"Lightning refuses what {__file__}:{code.co_firstlineno + 1} asks for: `self.log(x, {{'a': 1.0}})` was called"
    )
    assert (ended.code, ended.err.startswith(f"train: {line}")) == (2, True), ended.err
    assert f" ERROR litlab.job_log: {line}" in (tmp_path / "run" / "train.log").read_text()


def test_what_would_change_settings_on_the_way_is_refused(tmp_path):
    callback = "callbacks.tuner={_target_: lightning.pytorch.callbacks.BatchSizeFinder}"
    ended = run(tmp_path, "train", *SHORT, callback, f"hydra.run.dir={tmp_path}/run")
    assert (ended.code, len(ended.lines())) == (2, 1), ended.err
    assert ended.err.startswith("train: callbacks.tuner: what a BatchSizeFinder finds would not be in the run's config")


def test_what_a_callback_refuses_when_it_is_set_up_names_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", False)
    callback = "callbacks.stats={_target_: lightning.pytorch.callbacks.DeviceStatsMonitor}"
    ended = run(tmp_path, "train", *SHORT, callback, f"hydra.run.dir={tmp_path}/run")
    assert (ended.code, len(ended.lines())) == (2, 1), ended.err
    assert ended.err.startswith("train: callbacks.stats: `DeviceStatsMonitor` cannot log CPU stats as `psutil` is not")
