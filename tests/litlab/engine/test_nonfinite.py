import json
import math

import pytest
import torch
from conftest import SHORT
from processes import run
from runs import FULL, Regularized, fit
from torch import nn

from digits.classifier import Classifier
from litlab.engine.nonfinite import NonFiniteSkip
from litlab.engine.optimization import gradient_norm
from litlab.errors import TrainingError
from litlab.runs.checkpoint import read

pytestmark = pytest.mark.usefixtures("mnist_dir")

BAD = 7  # the step whose loss is not a number
TWO_EPOCHS = (*FULL, "data.batch_size=250", "trainer.max_epochs=2")


class NaN(Classifier):
    """Its loss is not a number at one step of each epoch."""

    value = math.nan

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * self.value if batch_idx == BAD else loss


class Infinite(NaN):
    value = math.inf


class Leaves(Classifier):
    """Leaves that batch out, in Lightning's own way."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == BAD else loss


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(("module_class", "value"), [(NaN, "nan"), (Infinite, "inf")])
def test_the_training_stops_at_that_step(tmp_path, steps, module_class, value):
    with pytest.raises(
        TrainingError, match=f"the loss became {value} at step 7, with a learning rate of 0.00"
    ) as error:
        fit(tmp_path, *TWO_EPOCHS, "scheduler=none", steps=steps, module_class=module_class)
    assert "0.001" in str(error.value)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("fused", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_dropped_batch_leaves_no_trace(tmp_path, optimizer, fused):
    common = [*TWO_EPOCHS, f"optimizer={optimizer}", f"optimizer.fused={fused}"]
    expected = fit(tmp_path, *common, module_class=Leaves)
    for steps in (1, 5):
        ours = fit(tmp_path, *common, "trainer.on_nan=skip", steps=steps, module_class=NaN)
        assert torch.equal(ours.weights(), expected.weights())
        assert ours.weights().isfinite().all()
        logged = [step for step, _ in ours.curves.curve("train/loss")]
        assert logged == [step for step in range(24) if step % 12 != BAD]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_of_accumulated_batches_only_that_one_is_dropped(tmp_path):
    common = [*TWO_EPOCHS, "trainer.accumulate_grad_batches=3"]
    expected = fit(tmp_path, *common, module_class=Leaves)
    ours = fit(tmp_path, *common, "trainer.on_nan=skip", steps=5, module_class=NaN)
    assert torch.equal(ours.weights(), expected.weights())


@pytest.mark.parametrize("on_device", [False, True])
def test_statistics_of_a_dropped_batch_are_taken_back(monkeypatch, on_device):
    monkeypatch.setattr("litlab.engine.nonfinite.skips_on_device", lambda *_: on_device)
    module = nn.BatchNorm1d(2)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def train(images):
        optimizer.zero_grad()
        dropping = NonFiniteSkip(module, optimizer, accumulates=False)
        dropping.backward(module(images).square().sum(), torch.Tensor.backward)
        optimizer.step()
        return {name: value.clone() for name, value in module.state_dict().items()}

    start = {name: value.clone() for name, value in module.state_dict().items()}
    before = train(torch.randn(8, 2))
    assert not any(torch.equal(value, start[name]) for name, value in before.items())
    after = train(torch.full((8, 2), math.nan))
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_momentum_does_not_begin_with_a_dropped_batch(monkeypatch):
    monkeypatch.setattr(
        "litlab.engine.nonfinite.skips_on_device", lambda *_: True
    )  # on a CPU `found_inf` does the same

    def trained(losses):
        torch.manual_seed(0)
        module, images = nn.Linear(3, 1), torch.rand(5, 3)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, dampening=0.5, fused=True)
        for factor in losses:
            optimizer.zero_grad()
            dropping = NonFiniteSkip(module, optimizer, accumulates=False)
            dropping.backward(module(images).sum() * factor, torch.Tensor.backward)
            optimizer.step()
        return module.weight.detach(), optimizer

    monkeypatch.setattr(torch, "empty_like", lambda like, *_, **__: torch.full_like(like, 7.0))
    (weight, optimizer), (expected, _) = trained([math.nan, 1.0, math.nan, 2.0]), trained([1.0, 2.0])
    assert torch.equal(weight, expected)
    assert optimizer.found_inf == 0


def test_a_norm_of_no_gradients_lies_where_the_weights_do():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3, device="meta"))], lr=1)
    assert gradient_norm(optimizer).device.type == "meta"
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=1)
    assert gradient_norm(optimizer) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("fused", ["true", "false"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd optimizer.momentum=0.9"])
def test_on_a_gpu_a_dropped_first_batch_leaves_no_trace(tmp_path, optimizer, fused):
    class First(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if self.trainer.global_step == 0 and batch_idx == 0 else loss

    gpu = [setting for setting in TWO_EPOCHS if "accelerator" not in setting]
    choice = [f"optimizer={optimizer.split()[0]}", *optimizer.split()[1:], f"optimizer.fused={fused}"]
    ours = fit(tmp_path, *gpu, "trainer.accelerator=gpu", *choice, "trainer.on_nan=skip", steps=5, module_class=First)
    assert ours.weights().isfinite().all()
    assert ours.metrics.skipped == 1


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [1, 5, 50])
def test_on_a_gpu_a_batch_is_dropped_within_the_graph(tmp_path, steps):
    class OnDevice(Regularized):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * torch.where(batch[0].sum() > threshold, math.nan, 1.0)

    threshold = 7_000.0  # of the batches some are brighter
    gpu = [setting for setting in TWO_EPOCHS if "accelerator" not in setting]
    gpu += ["trainer.accelerator=gpu", "augment=none", "callbacks=none"]
    settings = [*gpu, "data.batch_size=64", "trainer.on_nan=skip"]
    ours = fit(tmp_path, *settings, steps=steps, module_class=OnDevice)
    assert ours.weights().isfinite().all()
    assert ours.module.norm.running_var.isfinite().all()
    assert 0 < ours.metrics.skipped < len(ours.curves.curve("learning_rate")) + ours.metrics.skipped


def nan_at(number):
    """What makes the loss no number from this batch of the second epoch on."""

    def prepare():
        step = Classifier.training_step

        def failing(module, batch, batch_idx):
            loss = step(module, batch, batch_idx)
            return loss * math.nan if module.trainer.current_epoch == 1 and batch_idx >= number else loss

        Classifier.training_step = failing

    return prepare


def test_the_command_names_the_step_the_rate_and_the_last_good_checkpoint(tmp_path):
    folder = tmp_path / "run"
    arguments = [*SHORT, "trainer.max_epochs=3", "checkpoint.every_n_steps=8", f"hydra.run.dir={folder}"]
    ended = run(tmp_path, "train", *arguments, prepare=nan_at(7))
    assert ended.code == 1
    last = folder / "checkpoints" / "last.ckpt"
    assert ended.err == (
        f"train: the loss became nan at step 27, with a learning rate of 0.001; the last good checkpoint is {last}; "
        "try a lower optimizer.lr, trainer.gradient_clip_val, or trainer.on_nan=skip\n"
    )
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert "the loss became nan at step 27" in record["reason"]
    kept = read(last)
    assert kept["global_step"] == 24
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())
    assert run(tmp_path, "train", f"resume={folder}").code == 0  # nothing makes it fail there


def test_the_other_jobs_of_a_multirun_go_on(tmp_path):
    arguments = ["optimizer=sgd", "optimizer.lr=1e30,0.01", *SHORT, "test=false", f"paths.logs={tmp_path}/logs"]
    ended = run(tmp_path, "train", "-m", *arguments)
    assert ended.code == 1
    assert ended.lines() == ["train: 1 of 2 jobs is not done"]
    (sweep,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    records = [json.loads((sweep / job / "run.json").read_text()) for job in ("0", "1")]
    assert [said["status"] for said in records] == ["failed", "done"]
    assert "the loss became nan at step " in records[0]["reason"]


def test_dropped_batches_are_counted(tmp_path):
    folder = tmp_path / "run"
    arguments = [*SHORT, "trainer.max_epochs=2", "trainer.on_nan=skip", f"hydra.run.dir={folder}"]
    ended = run(tmp_path, "train", *arguments, prepare=nan_at(15))
    assert ended.code == 0, ended.err
    assert json.loads((folder / "run.json").read_text())["skipped_batches"] == 5
    assert ended.out.count("the loss became nan at step 35: such batches are dropped and counted") == 1


def test_weights_that_overflow_in_the_last_step_are_not_kept(tmp_path):
    folder = tmp_path / "run"

    def overflow():
        def spoil(module, *_):
            if module.trainer.global_step == 40:
                module.net.out.bias.data[3] = math.inf

        Classifier.on_train_batch_end = spoil

    arguments = [*SHORT, "trainer.max_epochs=3", f"hydra.run.dir={folder}"]
    ended = run(tmp_path, "train", *arguments, prepare=overflow)
    assert ended.code == 1
    assert ended.err.startswith("train: net.out.bias is no longer finite after 40 steps; the last good checkpoint is ")
    assert read(folder / "checkpoints" / "last.ckpt")["global_step"] == 20
