import logging
import time
from datetime import timedelta
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ThroughputMonitor,
)
from runs import FULL, STEP, Curves, fit
from torchmetrics.classification import MulticlassAccuracy

from digits.classifier import Classifier
from litlab.engine.hooks import AROUND_STEP, IN_STEP, STEP_PARTS
from litlab.engine.host_copy import HostCopy
from litlab.engine.logged import LoggedValues, Step

pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.max_epochs=2", "data.batch_size=140"],  # 22 batches, the last one smaller
        ["trainer.max_steps=17", "trainer.max_epochs=-1", "data.batch_size=450", "scheduler=none"],
        ["trainer.accumulate_grad_batches=3", "trainer.max_epochs=2", "data.batch_size=180"],
    ],
    ids=["two epochs", "max_steps in the third epoch", "accumulated gradients"],
)
def test_the_number_of_steps_at_a_time_changes_no_result(tmp_path, overrides):
    lightnings = fit(tmp_path, *STEP, *overrides)
    expected = lightnings.curves.curve("train/loss")
    assert [step for step, _ in expected] == list(range(lightnings.trainer.global_step))
    for steps in (1, 7):
        ours = fit(tmp_path, *STEP, *overrides, steps=steps)
        assert torch.equal(ours.weights(), lightnings.weights())
        assert ours.trainer.global_step == lightnings.trainer.global_step
        assert ours.trainer.current_epoch == lightnings.trainer.current_epoch
        for name in ("train/loss", "train/acc", "epoch", "val/loss", "val/acc"):
            assert ours.curves.curve(name) == lightnings.curves.curve(name), name
        for name, value in lightnings.trainer.callback_metrics.items():
            assert torch.equal(ours.trainer.callback_metrics[name], value)


class Norms(Callback):
    """Keeps the norm of the gradients as Lightning hands them to the optimizer, before it clips them."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = torch.cat([weight.grad.flatten() for weight in pl_module.parameters()])
        self.seen.append(gradients.norm().item())


@pytest.mark.parametrize("overrides", [[], ["trainer.accumulate_grad_batches=3"], ["trainer.on_nan=skip"]])
def test_the_norm_of_the_gradients_is_that_before_clipping(tmp_path, overrides):
    norms = Norms()
    options = [*STEP, *overrides, "data.batch_size=180", "trainer.max_epochs=1", "trainer.gradient_clip_val=0.1"]
    fit(tmp_path, *options, callbacks=[norms])
    assert min(norms.seen) > 0.1
    for callbacks in ([], [Norms()]):  # the second lets Lightning do the step
        ours = fit(tmp_path, *options, steps=7, callbacks=callbacks).curves.curve("gradient_norm")
        assert [step for step, _ in ours] == list(range(len(norms.seen)))
        assert [norm for _, norm in ours] == pytest.approx(norms.seen, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 7])
def test_on_a_cpu_no_step_looks_for_a_gpu(tmp_path, monkeypatch, steps):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(asked.append(None)))
    ours = fit(tmp_path, *STEP, "data.batch_size=100", "trainer.max_epochs=1", steps=steps)
    assert len(asked) < 10 < ours.trainer.global_step


def test_an_average_of_the_weights_is_made_at_every_step(tmp_path):
    single = fit(tmp_path, *FULL, "data.batch_size=140", "trainer.max_epochs=2", steps=1)
    several = fit(tmp_path, *FULL, "data.batch_size=140", "trainer.max_epochs=2", steps=7)
    assert torch.equal(single.weights(), several.weights())
    assert single.curves.curve("val/loss") == several.curves.curve("val/loss")


def test_hooks_are_called_where_something_is_due(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_train_steps=9, save_top_k=-1, filename="{step}")
    settings = ["data.batch_size=100", "trainer.limit_train_batches=25", "trainer.max_epochs=2"]
    ours = fit(tmp_path, *FULL, *settings, "trainer.val_check_interval=10", steps=7, callbacks=[keep])
    # 7 at a time, but validation after 10 and 20 of an epoch, a checkpoint after each 9, the epochs end at 25 and 50.
    assert ours.diary.batch_ends == [7, 9, 10, 17, 18, 20, 25, 27, 34, 35, 36, 43, 45, 50]
    assert ours.diary.validations == [10, 20, 35, 45]
    assert [index + 1 for index in ours.diary.indices] == [7, 9, 10, 17, 18, 20, 25, 2, 9, 10, 11, 18, 20, 25]
    assert sorted(int(file.stem.partition("=")[2]) for file in (tmp_path / "kept").iterdir()) == [9, 18, 27, 36, 45]
    assert [step for step, _ in ours.curves.curve("train/loss")] == list(range(50))


@pytest.mark.parametrize("every", [1, 4])
def test_loggers_get_every_step_that_is_asked_for(tmp_path, every):
    ours = fit(tmp_path, *FULL, "data.batch_size=280", "trainer.max_epochs=1", f"trainer.log_every_n_steps={every}",
               steps=3)  # fmt: skip
    assert [step for step, _ in ours.curves.curve("train/loss")] == list(range(11))[every - 1 :: every]
    assert [step for step, _ in ours.curves.curve("learning_rate")] == list(range(11))[every - 1 :: every]


def test_what_an_execution_has_logged_is_saved_with_it(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Curves, "save", lambda curves: saved.append(len(curves.curve("train/loss"))))
    fit(tmp_path, *STEP, "trainer.max_epochs=1", "data.batch_size=140", steps=7)
    assert [count for count in dict.fromkeys(saved) if count] == [7, 14, 21, 22]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # only the first training makes them
@pytest.mark.parametrize("steps", [1, 7])
def test_goes_on_in_the_middle_of_an_epoch(tmp_path, steps):
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_train_steps=9, save_top_k=-1, filename="{step}")
    still = [*FULL, "augment=none", "data.batch_size=140", "trainer.max_epochs=2"]  # Lightning keeps no random states
    whole = fit(tmp_path, *still, steps=steps, callbacks=[keep])
    for step in (9, 18, 27, 36):
        resumed = fit(tmp_path, *still, steps=steps, checkpoint=tmp_path / "kept" / f"step={step}.ckpt")
        assert torch.equal(resumed.weights(), whole.weights())
        assert resumed.trainer.global_step == whole.trainer.global_step == 44
        assert resumed.curves.curve("train/loss") == whole.curves.curve("train/loss")[step:]


class LogsInManyWays(Classifier):
    """Logs in all the ways that Lightning knows."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        if not hasattr(self, "seen"):
            self.seen = MulticlassAccuracy(num_classes=10, average="micro")
        self.seen(logits, labels)
        self.log("metric", self.seen, on_step=True, on_epoch=True)
        self.log("both", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("epochs", loss, on_step=False, on_epoch=True)
        self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("weighted", loss, on_step=False, on_epoch=True, batch_size=batch_idx + 1)
        self.log("hidden", loss, logger=False)
        self.log_dict({"first": loss, "number": 2.5})
        if batch_idx % 3 == 0:
            self.log("thirds", loss)
        return loss


def test_whatever_is_logged_arrives_as_from_lightning(tmp_path):
    settings = [*FULL, "data.batch_size=320", "trainer.max_epochs=2"]
    lightnings = fit(tmp_path, *settings, module_class=LogsInManyWays)
    ours = fit(tmp_path, *settings, module_class=LogsInManyWays, steps=4)
    names = ["metric_step", "both_step", "first", "number"]
    assert {name for _, point in ours.curves.points for name in point} - {"learning_rate", "gradient_norm"} == {
        name for _, point in lightnings.curves.points for name in point
    }
    for name in names:
        assert ours.curves.curve(name) == lightnings.curves.curve(name), name
    for name in ("metric_epoch", "both_epoch", "epochs", "sum", "weighted"):
        own, expected = ours.curves.curve(name), lightnings.curves.curve(name)
        assert [step for step, _ in own] == [step for step, _ in expected], name
        assert [value for _, value in own] == pytest.approx([value for _, value in expected], rel=1e-6), name
    assert ours.curves.curve("hidden") == []
    # Where a step did not log a name, Lightning repeats the last value; here the curve has a gap.
    assert [step for step, _ in ours.curves.curve("thirds")] == [0, 3, 6, 9, 10, 13, 16, 19]
    assert ours.trainer.callback_metrics.keys() >= {"both", "both_step", "hidden", "first", "number"}


def test_means_count_batches_whose_gradients_are_accumulated(tmp_path):
    settings = [*FULL, "data.batch_size=320", "trainer.max_epochs=1", "trainer.accumulate_grad_batches=3"]
    lightnings = fit(tmp_path, *settings, module_class=LogsInManyWays)
    ours = fit(tmp_path, *settings, module_class=LogsInManyWays, steps=4)
    for name in ("both_step", "epochs", "metric_epoch", "sum"):
        own, expected = ours.curves.curve(name), lightnings.curves.curve(name)
        assert [step for step, _ in own] == [step for step, _ in expected], name
        assert [value for _, value in own] == pytest.approx([value for _, value in expected], rel=1e-6), name


class LogsAWeight(Classifier):
    """Logs what the step changes."""

    def training_step(self, batch, batch_idx):
        self.log("weight", self.net.out.bias[0])
        return super().training_step(batch, batch_idx)


def test_a_value_is_logged_as_it_was_when_it_was_logged(tmp_path):
    settings = [*FULL, "data.batch_size=320", "trainer.max_epochs=1"]
    lightnings = fit(tmp_path, *settings, module_class=LogsAWeight)
    ours = fit(tmp_path, *settings, module_class=LogsAWeight, steps=4)
    assert ours.curves.curve("weight") == lightnings.curves.curve("weight")


@pytest.mark.parametrize("end", ["trainer.max_steps=17", "trainer.max_epochs=2"])
def test_values_that_arrive_late_are_all_written(tmp_path, monkeypatch, end):
    expected = fit(tmp_path, *FULL, "data.batch_size=140", "trainer.max_epochs=2", end, steps=5)
    monkeypatch.setattr("litlab.engine.host_copy.HostCopy.done", lambda transfer: False)
    late = fit(tmp_path, *FULL, "data.batch_size=140", "trainer.max_epochs=2", end, steps=5)
    assert late.curves.points == expected.curves.points
    assert late.trainer.callback_metrics.keys() == expected.trainer.callback_metrics.keys()


def test_values_are_not_read_before_they_arrive_where_no_event_tells(tmp_path, monkeypatch):
    blocking, to = [], torch.Tensor.to

    def noting(tensor, *arguments, non_blocking=False, **options):
        blocking.append(not non_blocking)
        return to(tensor, *arguments, non_blocking=non_blocking, **options)

    monkeypatch.setattr(torch.Tensor, "to", noting)
    HostCopy([Step(0, 1, 1, True, 0.1, LoggedValues({}, {}, ("loss",), torch.ones(1)))], {})
    assert blocking == [True]


def test_a_step_that_reads_what_was_logged_finds_the_newest_values(tmp_path, caplog):
    class Reads(Classifier):
        """Weighs its loss by the one before."""

        def training_step(self, batch, batch_idx):
            before = self.trainer.callback_metrics.get("train/loss", torch.tensor(1.0))
            return super().training_step(batch, batch_idx) * before

    lightnings = fit(tmp_path, *SMALL, module_class=Reads)
    with caplog.at_level(logging.INFO):
        ours = fit(tmp_path, *SMALL, module_class=Reads, steps=4)
    assert caplog.messages == [
        "no CUDA graph: this is a cpu",
        "trainer.steps_per_execution is 1 here: training_step reads trainer.callback_metrics",
    ]
    assert ours.diary.batch_ends == list(range(1, 11))
    assert torch.equal(ours.weights(), lightnings.weights())


class Listens(Callback):
    """Wants to see the gradients of each step."""

    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append(pl_module.net.out.weight.grad.norm().item())


def test_hooks_within_a_step_are_called_at_every_step(tmp_path):
    lightnings, ours = Listens(), Listens()
    fit(tmp_path, *FULL, "data.batch_size=320", "trainer.max_epochs=1", callbacks=[lightnings])
    fit(tmp_path, *FULL, "data.batch_size=320", "trainer.max_epochs=1", callbacks=[ours], steps=4)
    assert len(ours.norms) == 10
    assert ours.norms == lightnings.norms


def test_gradients_of_a_fused_optimizer_can_be_clipped_in_bf16(tmp_path):
    ours = fit(tmp_path, *FULL, "trainer.precision=bf16-mixed", "data.batch_size=320", "trainer.max_epochs=1", steps=4)
    assert ours.trainer.global_step == 10


SMALL = (*STEP, "data.batch_size=50", "trainer.limit_train_batches=5", "trainer.max_epochs=2")


def calls(hook):
    """A class attribute that makes a hook count its calls and do what Lightning's own does."""

    def counted(self, *args, **kwargs):
        self.calls = getattr(self, "calls", 0) + 1
        return getattr(super(type(self), self), hook)(*args, **kwargs)

    return {hook: counted}


MODULE_HOOKS = [*AROUND_STEP, *IN_STEP, *STEP_PARTS]


@pytest.mark.parametrize("hook", MODULE_HOOKS)
def test_a_module_with_a_hook_for_each_step_does_one_step_at_a_time(tmp_path, caplog, hook):
    lightnings = fit(tmp_path, *SMALL)
    with caplog.at_level(logging.INFO):
        ours = fit(tmp_path, *SMALL, module_class=type("Hooked", (Classifier,), calls(hook)), steps=4)
    assert caplog.messages == [f"trainer.steps_per_execution is 1 here: the module has {hook}"]
    assert ours.diary.batch_ends == list(range(1, 11))
    assert ours.module.calls == 10
    assert torch.equal(ours.weights(), lightnings.weights())


def on_instance(hook):
    """A callback that got its hook after it was made."""
    callback = Callback()
    setattr(callback, hook, lambda *_: None)
    return callback


class Accumulates(Callback):
    """Changes the number of accumulated batches in one of Lightning's hooks."""

    def __init__(self, hook, batches):
        setattr(self, hook, lambda trainer, _: setattr(trainer, "accumulate_grad_batches", batches))


FOREIGN_CALLBACKS = {
    "LearningRateMonitor has on_train_batch_start": LearningRateMonitor,
    "EMAWeightAveraging has on_train_batch_end": EMAWeightAveraging,
    "DeviceStatsMonitor has on_train_batch_start": lambda: DeviceStatsMonitor(cpu_stats=False),
    "ThroughputMonitor has on_train_batch_end": lambda: ThroughputMonitor(lambda batch: len(batch[1]), window_size=2),
    "ModelCheckpoint has on_train_batch_end": lambda: ModelCheckpoint(train_time_interval=timedelta(hours=1)),
    **{
        f"LambdaCallback has {hook}": partial(LambdaCallback, **{hook: lambda *_: None})
        for hook in (*AROUND_STEP, *IN_STEP)
    },
    "Callback has on_after_backward": partial(on_instance, "on_after_backward"),
    "trainer.accumulate_grad_batches was changed on the way, by GradientAccumulationScheduler": lambda: (
        GradientAccumulationScheduler({0: 2, 1: 3})
    ),
    "trainer.accumulate_grad_batches was changed on the way, by Accumulates": lambda: Accumulates(
        "on_validation_end", 2
    ),
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:When using the `ThroughputMonitor`")
@pytest.mark.parametrize("reason", FOREIGN_CALLBACKS)
def test_a_callback_that_wants_each_step_gets_it(tmp_path, caplog, reason):
    settings = [*SMALL, "trainer.val_check_interval=2"]
    lightnings, own = fit(tmp_path, *settings, callbacks=[FOREIGN_CALLBACKS[reason]()]), FOREIGN_CALLBACKS[reason]()
    with caplog.at_level(logging.INFO):
        ours = fit(tmp_path, *settings, callbacks=[own], steps=4)
    assert caplog.messages[-1] == f"trainer.steps_per_execution is 1 here: {reason}"
    assert torch.equal(ours.weights(), lightnings.weights())
    assert ours.trainer.global_step == lightnings.trainer.global_step
    if "changed" not in reason:
        assert ours.diary.batch_ends == list(range(1, 11))
    if isinstance(own, LearningRateMonitor):
        assert [step for step, _ in ours.curves.curve("lr-AdamW")] == list(range(10))
    if isinstance(own, EMAWeightAveraging):
        assert own._average_model.n_averaged == 10


def test_what_stops_the_training_does_so_after_that_step(tmp_path):
    class Stops(Classifier):
        """Has seen enough in the middle of an execution."""

        def training_step(self, batch, batch_idx):
            self.trainer.should_stop = self.trainer.global_step == 2
            return super().training_step(batch, batch_idx)

    runs = [fit(tmp_path, *SMALL, module_class=Stops, steps=steps) for steps in (None, 1, 5)]
    assert [run.trainer.global_step for run in runs] == [3, 3, 3]
    assert torch.equal(runs[2].weights(), runs[0].weights())


def test_the_end_of_the_time_ends_an_execution(tmp_path):
    class Slow(Classifier):
        """Takes longer than there is time."""

        def training_step(self, batch, batch_idx):
            time.sleep(1.1 * (batch_idx == 1))
            return super().training_step(batch, batch_idx)

    ours = fit(tmp_path, *SMALL, "trainer.max_time=00:00:00:01", module_class=Slow, steps=5)
    assert ours.trainer.global_step <= 3


class OptimizesByHand(Classifier):
    """Does Lightning's manual optimization."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss := self.train_loss(self(batch[0]), batch[1]))
        optimizer.step()
        self.log("train/loss", loss)


def test_a_module_that_optimizes_by_hand_does_one_step_at_a_time(tmp_path, caplog):
    settings = [
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "data.batch_size=450",
        "data.val_size=57000",
        "trainer.limit_val_batches=1",
    ]
    lightnings = fit(tmp_path, *settings, module_class=OptimizesByHand)
    with caplog.at_level(logging.INFO):
        ours = fit(tmp_path, *settings, module_class=OptimizesByHand, steps=7)
    assert caplog.messages == ["trainer.steps_per_execution is 1 here: the module optimizes by hand"]
    assert torch.equal(ours.weights(), lightnings.weights())
    rates = [point for point in ours.curves.points if "learning_rate" in point[1]]
    assert [point for point in ours.curves.points if point not in rates] == lightnings.curves.points
    assert [step for step, _ in rates] == [step for step, point in lightnings.curves.points if "train/loss" in point]
    assert ours.diary.batch_ends == list(range(1, 15))


def test_why_there_is_no_graph_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit(tmp_path, *FULL, "trainer.max_epochs=2", "data.batch_size=450", steps=3)
    assert caplog.messages == ["no CUDA graph: this is a cpu"]
