import gc
import json
import logging
import weakref

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from runs import PLAIN, TEN, Regularized, fit, graphs, said
from tape import Tape
from torch.utils._python_dispatch import _get_current_dispatch_mode

from digits.classifier import Classifier
from litlab.callbacks.record import RecordRun
from litlab.callbacks.throughput import Throughput
from litlab.data.memory import InMemoryLoader
from litlab.engine.metrics import StepMetrics
from litlab.runs.run import Run

pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.mark.parametrize(
    ("module_class", "settings", "rounding"),
    [
        (Classifier, TEN, 1e-4),
        (Regularized, [*TEN, "callbacks=none"], 1e-2),
        (Classifier, [*TEN, "trainer.precision=bf16-mixed"], 1e-2),
    ],
)
def test_a_captured_step_does_what_the_step_does(tmp_path, tape, eager, caplog, module_class, settings, rounding):
    one_by_one = fit(tmp_path, *settings, module_class=module_class, steps=1)
    expected = eager(tmp_path, *settings, module_class=module_class)
    with caplog.at_level(logging.INFO):
        captured = fit(tmp_path, *settings, module_class=module_class, steps=7)
    assert said(caplog) == []
    # Of 20 batches 3 warm up and 2 are smaller; the 1st, 2nd, 4th, 8th and the epoch's first are done both ways.
    assert (graphs(captured).replayed, graphs(captured).checked) == (10, 5)
    assert graphs(captured).summary() == "15 steps, of which 5 were checked"
    assert [made.replays for made in tape if made.is_captured] == [15]
    assert torch.equal(captured.weights(), expected.weights())
    for name, value in expected.module.state_dict().items():
        assert torch.equal(captured.module.state_dict()[name], value), name
    assert captured.curves.points == expected.curves.points
    # Learning rates are rounded to 32 bits in a tensor; all else is the same.
    assert captured.weights().allclose(one_by_one.weights(), atol=rounding)
    assert captured.curves.curve("learning_rate") == one_by_one.curves.curve("learning_rate")


def test_a_capture_leaves_no_trace_in_what_a_checkpoint_holds(tmp_path, tape):
    trained = fit(tmp_path, *TEN, steps=7)
    group = trained.trainer.optimizers[0].param_groups[0]
    assert isinstance(group["lr"], float)
    assert group["capturable"] is False


def test_the_record_says_how_many_steps_were_done_by_a_graph(tmp_path, tape):
    (tmp_path / "run").mkdir()
    recording = RecordRun(Run.create(tmp_path / "run", seed=0), Throughput(), StepMetrics())
    fit(tmp_path, *TEN, steps=7, callbacks=[recording])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["cuda_graph"] == "15 steps, of which 5 were checked"


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_after_the_training_its_graph_is_released(tmp_path, tape):
    trained = fit(tmp_path, *TEN, steps=7)
    assert [made.is_released for made in tape if made.is_captured] == [True]
    assert graphs(trained).captured is None
    assert all(weight.grad is None for weight in trained.module.parameters())
    assert trained.trainer.test(trained.module, trained.trainer.datamodule, verbose=False)
    trained.trainer.fit_loop.max_epochs = 3
    trained.trainer.fit(trained.module, datamodule=trained.trainer.datamodule)
    assert trained.trainer.global_step == 30


def test_accumulated_gradients_are_left_to_lightning(tmp_path, tape, caplog):
    settings = [*TEN, "trainer.accumulate_grad_batches=2"]
    one_by_one = fit(tmp_path, *settings, steps=1)
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, steps=7)
    assert said(caplog) == ["no CUDA graph: trainer.accumulate_grad_batches is not 1"]
    assert torch.equal(tried.weights(), one_by_one.weights())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_step_that_cannot_be_captured_is_done_without(tmp_path, tape, eager, caplog):
    class Invisible(Classifier):
        """Waits for the device in a capture alone."""

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if isinstance(_get_current_dispatch_mode(), Tape):
                loss.item()
            return loss

    expected = eager(tmp_path, *TEN, module_class=Invisible)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *TEN, module_class=Invisible, steps=7)
    reason = "the step cannot be captured: operation not permitted when stream is capturing"
    assert said(caplog) == [f"no CUDA graph: {reason}"]
    assert graphs(tried).summary() == f"none: {reason}"
    assert torch.equal(tried.weights(), expected.weights())
    assert tried.curves.points == expected.curves.points
    assert tried.trainer.test(tried.module, tried.trainer.datamodule, verbose=False)
    tried.trainer.fit_loop.max_epochs = 3
    tried.trainer.fit(tried.module, datamodule=tried.trainer.datamodule)
    assert tried.trainer.global_step == 30


def test_nothing_keeps_the_autograd_graph_of_a_capture_that_has_failed(tmp_path, tape):
    kept, alive = [], []

    class Invisible(Classifier):
        def training_step(self, batch, batch_idx):
            alive.extend(loss() is not None for loss in kept)
            kept.clear()
            loss = super().training_step(batch, batch_idx)
            if isinstance(_get_current_dispatch_mode(), Tape):
                kept.append(weakref.ref(loss))
                loss.item()
            return loss

    gc.disable()
    try:
        fit(tmp_path, *TEN, module_class=Invisible, steps=7)
    finally:
        gc.enable()
    assert alive == [False]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # only the first training makes them
@pytest.mark.parametrize("fused", ["true", "false"])
def test_a_captured_training_goes_on_to_the_bit(tmp_path, tape, fused):
    settings = [*TEN, "augment=none", f"optimizer.fused={fused}"]  # Lightning keeps no random states
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_train_steps=6, save_top_k=-1, filename="{step}")
    whole = fit(tmp_path, *settings, steps=7, callbacks=[keep])
    assert graphs(whole).replayed > 0
    for step in (6, 12):
        resumed = fit(tmp_path, *settings, steps=7, checkpoint=tmp_path / "kept" / f"step={step}.ckpt")
        assert torch.equal(resumed.weights(), whole.weights())
        assert resumed.curves.curve("train/loss") == whole.curves.curve("train/loss")[step:]


class LogsMeans(Classifier):
    """Logs a mean over the epoch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("mean", loss, on_step=False, on_epoch=True)
        return loss


def test_means_over_an_epoch_are_kept_of_captured_steps(tmp_path, tape):
    captured = fit(tmp_path, *TEN, module_class=LogsMeans, steps=7)
    assert graphs(captured).replayed > 0
    losses = [value for _, value in captured.curves.curve("train/loss")]
    sizes = [31] * 9 + [21]
    means = [
        sum(loss * size for loss, size in zip(losses[start : start + 10], sizes, strict=True)) / 300
        for start in (0, 10)
    ]
    assert [value for _, value in captured.curves.curve("mean")] == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "batches"), [(160, 2), (90, 4)])
def test_of_a_few_batches_an_epoch_the_common_shape_is_captured(tmp_path, tape, eager, batch_size, batches):
    settings = [*PLAIN, f"data.batch_size={batch_size}", "trainer.max_epochs=6", "trainer.limit_val_batches=0"]
    expected, captured = eager(tmp_path, *settings), fit(tmp_path, *settings, steps=7)
    assert graphs(captured).replayed + graphs(captured).checked == 6 * (batches - 1) - 3
    assert torch.equal(captured.weights(), expected.weights())


def with_sizes(monkeypatch, sizes):
    """Cut the batches of a training to these sizes, by number."""
    rest = InMemoryLoader._rest

    def cut(loader):
        whole = loader.sampler.shuffle
        for number, parts in enumerate(rest(loader)):
            yield tuple(part[: sizes(number)] for part in parts) if whole else parts

    monkeypatch.setattr(InMemoryLoader, "_rest", cut)


def test_batches_that_change_their_shape_are_done_without(tmp_path, tape, eager, caplog, monkeypatch):
    with_sizes(monkeypatch, lambda number: 30 - number % 3)
    settings = [*PLAIN, "data.batch_size=30"]
    expected = eager(tmp_path, *settings)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, steps=7)
    assert said(caplog) == ["no CUDA graph for batches of another shape than the captured one"]
    assert graphs(tried).replayed + graphs(tried).checked == 2 * 4 - 3  # every third batch is as long as the first
    assert torch.equal(tried.weights(), expected.weights())


def test_another_shape_is_captured_if_it_has_become_the_common_one(tmp_path, tape, eager, monkeypatch):
    with_sizes(monkeypatch, lambda number: 10 if number < 8 else 6)
    settings = [*PLAIN, "data.batch_size=10", "trainer.max_epochs=1"]
    expected, captured = eager(tmp_path, *settings), fit(tmp_path, *settings, steps=7)
    assert [made.replays for made in tape if made.is_captured] == [8 - 3, 30 - 8 - 7 - 3]
    assert torch.equal(captured.weights(), expected.weights())


def test_without_memory_for_a_step_beside_the_graph_it_is_given_up(tmp_path, tape, eager, caplog):
    def fills(self, batch, _):
        if len(batch[0]) == 21 and any(made.is_captured and not made.is_released for made in tape):
            torch.rand(1)
            self.norm.running_mean.zero_()
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Full(Regularized):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(0.5)
            loss = super().training_step(batch, batch_idx)
            fills(self, batch, batch_idx)
            return loss

    expected = eager(tmp_path, *PLAIN, module_class=Full)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *PLAIN, module_class=Full, steps=7)
    assert said(caplog) == ["no CUDA graph: the device's memory does not hold a step beside the graph"]
    assert graphs(tried).summary().startswith("6 steps, of which 3 were checked; then none: the device's memory")
    assert torch.equal(tried.weights(), expected.weights())
    assert torch.equal(tried.module.norm.running_mean, expected.module.norm.running_mean)
