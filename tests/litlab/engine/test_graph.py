import logging

import numpy as np
import pytest
import torch
from runs import FULL, fit
from tape import Tape

from digits.classifier import Classifier
from litlab.data.memory import InMemoryLoader

pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.fixture
def tape(monkeypatch):
    """Lets the engine record its steps on the CPU; the recordings."""
    monkeypatch.setattr("litlab.engine.graph.CudaGraph", Tape)
    monkeypatch.setattr(Tape, "made", [])
    return Tape.made


SETTINGS = [*FULL, "data.batch_size=140", "trainer.max_epochs=2"]  # 21 batches of 140 and one of 60, twice


def test_a_recorded_step_does_what_the_step_does(tmp_path, tape):
    one_by_one = fit(tmp_path, *SETTINGS, steps=1)
    assert tape == []
    recorded = fit(tmp_path, *SETTINGS, steps=7)
    assert [(made.warm_ups, made.replays) for made in tape] == [(3, 44 - 3 - 2)]
    assert recorded.trainer.global_step == 44
    # Learning rates are rounded to 32 bits in a tensor; all else is the same.
    assert recorded.weights().allclose(one_by_one.weights(), atol=1e-4)
    for name in ("train/loss", "train/acc", "val/loss"):
        own, expected = recorded.curves.curve(name), one_by_one.curves.curve(name)
        assert [step for step, _ in own] == [step for step, _ in expected]
        assert [value for _, value in own] == pytest.approx([value for _, value in expected], rel=1e-3, abs=1e-3)
    assert recorded.curves.curve("learning_rate") == one_by_one.curves.curve("learning_rate")


def test_a_recording_leaves_no_trace_in_what_a_checkpoint_holds(tmp_path, tape):
    trained = fit(tmp_path, *SETTINGS, steps=7)
    group = trained.trainer.optimizers[0].param_groups[0]
    assert isinstance(group["lr"], float)
    assert group["capturable"] is False


class LooksAtTheLoss(Classifier):
    """Takes a number off the device in each step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if loss.item() < 100 else None


class LogsANumber(Classifier):
    """Logs what a graph would not change."""

    def training_step(self, batch, batch_idx):
        self.log("batch", batch_idx)
        return super().training_step(batch, batch_idx)


class DrawsInPython(Classifier):
    """Draws what a graph would draw only once."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * float(np.random.uniform(0.5, 1.5))


class LogsMeans(Classifier):
    """Logs a mean over the epoch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("mean", loss, on_step=False, on_epoch=True)
        return loss


@pytest.mark.parametrize(
    ("module_class", "overrides", "reason"),
    [
        (LooksAtTheLoss, [], "the step cannot be captured: operation not permitted when stream is capturing"),
        (LogsANumber, [], "batch is logged as a number that Python knows, which a graph would not change"),
        (DrawsInPython, [], "a step draws random numbers on the CPU"),
        (Classifier, ["trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches is not 1"),
    ],
)
def test_what_cannot_be_recorded_runs_step_by_step(tmp_path, tape, caplog, module_class, overrides, reason):
    one_by_one = fit(tmp_path, *SETTINGS, *overrides, module_class=module_class, steps=1)
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *SETTINGS, *overrides, module_class=module_class, steps=7)
    assert [message for message in caplog.messages if "no CUDA graph" in message] == caplog.messages
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"no CUDA graph: {reason}")
    assert torch.equal(tried.weights(), one_by_one.weights())
    assert tried.trainer.global_step == one_by_one.trainer.global_step
    assert tried.curves.curve("train/loss") == one_by_one.curves.curve("train/loss")


def test_means_over_an_epoch_are_kept_of_recorded_steps(tmp_path, tape):
    recorded = fit(tmp_path, *SETTINGS, module_class=LogsMeans, steps=7)
    assert tape[0].replays > 0
    losses = [value for _, value in recorded.curves.curve("train/loss")]
    sizes = [140] * 21 + [60]
    means = [
        sum(loss * size for loss, size in zip(losses[start : start + 22], sizes, strict=True)) / 3000
        for start in (0, 22)
    ]
    assert [value for _, value in recorded.curves.curve("mean")] == pytest.approx(means, rel=1e-5)


def test_a_schedule_that_moves_the_momentum_too_ends_the_graph(tmp_path, tape, caplog, monkeypatch):
    def with_momentum(self, optimizer, total_steps, warmup):
        torch.optim.lr_scheduler.OneCycleLR.__init__(self, optimizer, max_lr=0.01, total_steps=total_steps)

    monkeypatch.setattr("litlab.schedulers.OneCycle.__init__", with_momentum)
    one_by_one = fit(tmp_path, *SETTINGS, steps=1)
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *SETTINGS, steps=7)
    assert caplog.messages == ["no CUDA graph: the schedule changes more than the learning rate"]
    assert tried.weights().allclose(one_by_one.weights(), atol=1e-4)


def test_batches_that_change_their_shape_are_not_graphed(tmp_path, tape, caplog, monkeypatch):
    rest = InMemoryLoader._rest

    def ragged(loader):
        for number, parts in enumerate(rest(loader)):
            yield tuple(part[: len(part) - number % 3] for part in parts) if loader.sampler.batch_size == 140 else parts

    monkeypatch.setattr(InMemoryLoader, "_rest", ragged)
    one_by_one = fit(tmp_path, *SETTINGS, steps=1)
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *SETTINGS, steps=7)
    assert caplog.messages == ["no CUDA graph for batches of another shape than the first"]
    assert tape[0].replays == 2 * 7 - 1  # every third batch is as long as the first one to be captured
    assert tried.weights().allclose(one_by_one.weights(), atol=1e-4)


@pytest.mark.gpu
def test_graphs_and_single_steps_agree_on_a_gpu(tmp_path):
    settings = [
        *FULL,
        "trainer.accelerator=gpu",
        "data.batch_size=50",
        "trainer.max_epochs=-1",
        "trainer.max_steps=200",
    ]
    one_by_one = fit(tmp_path, *settings, steps=1)
    graphed = fit(tmp_path, *settings, steps=50)
    assert graphed.trainer.fit_loop.epoch_loop.automatic_optimization.captured is not None
    assert graphed.trainer.global_step == 200
    own, expected = graphed.curves.curve("train/loss"), one_by_one.curves.curve("train/loss")
    assert [step for step, _ in own] == list(range(200))
    # The random numbers of the augmentation are the same; convolutions on a GPU add up in any order.
    assert [value for _, value in own] == pytest.approx([value for _, value in expected], rel=0.05, abs=0.05)
    assert graphed.weights().allclose(one_by_one.weights(), atol=0.02)  # the averaged ones


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adam optimizer.fused=false"])
def test_every_optimizer_can_be_captured_on_a_gpu(tmp_path, optimizer, precision, caplog):
    with caplog.at_level(logging.INFO):
        graphed = fit(tmp_path, "trainer.accelerator=gpu", "trainer.max_epochs=1", "trainer.limit_train_batches=40",
                      *f"optimizer={optimizer}".split(), "scheduler=cosine", f"trainer.precision={precision}",
                      "trainer.gradient_clip_val=1.0", steps=20)  # fmt: skip
    assert caplog.messages == []
    assert graphed.trainer.fit_loop.epoch_loop.automatic_optimization.captured is not None


@pytest.mark.gpu
def test_training_goes_on_after_a_capture_that_failed_on_a_gpu(tmp_path, caplog):
    settings = ["trainer.accelerator=gpu", "trainer.max_epochs=1", "trainer.limit_train_batches=40", "augment=affine"]
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, module_class=LooksAtTheLoss, steps=20)
    (message,) = caplog.messages
    assert message.startswith("no CUDA graph: the step cannot be captured: ")
    one_by_one = fit(tmp_path, *settings, module_class=LooksAtTheLoss, steps=1)
    assert tried.weights().allclose(one_by_one.weights(), atol=0.02)
