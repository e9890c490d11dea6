from types import SimpleNamespace

import pytest
import torch

from litlab.callbacks import throughput
from litlab.callbacks.throughput import Throughput


class Module:
    """As much of a LightningModule as the callback asks for."""

    device = torch.device("cpu")

    def __init__(self):
        self.logged = []

    def log(self, name, value, sync_dist):
        self.logged.append((name, value))


class Loop:
    """As much of a Trainer as the callback asks for."""

    def __init__(self, sanity_checking):
        self.sanity_checking = sanity_checking
        self.fit_loop = self.epoch_loop = self
        self.examples = 0


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock.now)
    return clock


def test_counts_images_and_leaves_validation_out(clock):
    callback, module, trainer = Throughput(), Module(), Loop(sanity_checking=False)
    assert callback.examples_per_second is None
    for epoch, (training, validation) in enumerate([(3.0, 100.0), (1.0, 50.0)], start=1):
        callback.on_train_epoch_start(trainer, module)
        trainer.examples += 30
        clock.now += training
        callback.on_validation_start(trainer, module)
        clock.now += validation
        callback.on_validation_end(trainer, module)
        trainer.examples += 30
        clock.now += training
        callback.on_train_epoch_end(trainer, module)
        assert module.logged[-1] == ("examples_per_second", 60 / (2 * training))
        assert len(module.logged) == epoch
    assert callback.examples_per_second == 120 / 8


def test_the_check_before_training_does_not_start_the_clock(clock):
    callback, module, trainer = Throughput(), Module(), Loop(sanity_checking=True)
    callback.on_validation_start(trainer, module)
    clock.now += 5
    callback.on_validation_end(trainer, module)
    clock.now += 5
    callback.on_train_epoch_start(trainer, module)
    trainer.examples += 8
    clock.now += 2
    callback.on_train_epoch_end(trainer, module)
    assert callback.examples_per_second == 4
