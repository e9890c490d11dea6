"""Steps that are captured on a GPU."""

import json
import logging

import pytest
import torch
from runs import FULL, Regularized, fit, graphs, said
from torchvision.transforms import v2

from digits.classifier import Classifier

pytestmark = [pytest.mark.usefixtures("mnist_dir"), pytest.mark.gpu]

GPU = (
    *(setting for setting in FULL if "accelerator" not in setting),
    "trainer.accelerator=gpu",
    "trainer.max_epochs=2",
    "data.batch_size=140",
)
"""21 batches of 140 and one of 60, twice."""


class LooksAtTheLoss(Classifier):
    """Takes a number off the device in each step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if loss.item() < 100 else None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_with_and_without_a_graph_agree(tmp_path, eager, caplog, precision):
    settings = [*GPU, f"trainer.precision={precision}"]
    expected = eager(tmp_path, *settings)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        captured = fit(tmp_path, *settings, steps=7)
    assert said(caplog) == []
    assert graphs(captured).replayed + graphs(captured).checked == 44 - 3 - 2
    own, right = captured.curves.curve("train/loss"), expected.curves.curve("train/loss")
    assert [step for step, _ in own] == [step for step, _ in right]
    # The random numbers of the augmentation are the same; convolutions on a GPU may add up in any order.
    assert [value for _, value in own] == pytest.approx([value for _, value in right], rel=0.05, abs=0.05)
    assert captured.weights().allclose(expected.weights(), atol=0.02)  # the averaged ones


def test_dropout_and_batch_normalization_agree_to_the_bit_if_the_kernels_are_deterministic(tmp_path, eager):
    settings = [*GPU, "callbacks=none", "trainer.deterministic=true", "augment=none"]
    expected = eager(tmp_path, *settings, module_class=Regularized)
    captured = fit(tmp_path, *settings, module_class=Regularized, steps=7)
    assert graphs(captured).replayed > 0
    for name, value in expected.module.state_dict().items():
        assert torch.equal(captured.module.state_dict()[name], value), name
    assert captured.curves.curve("train/loss") == expected.curves.curve("train/loss")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adam optimizer.fused=false"])
def test_every_optimizer_of_the_lab_can_be_captured(tmp_path, optimizer, precision, caplog):
    with caplog.at_level(logging.INFO):
        trained = fit(tmp_path, "trainer.accelerator=gpu", "trainer.max_epochs=1", "trainer.limit_train_batches=40",
                      *f"optimizer={optimizer}".split(), "scheduler=cosine", f"trainer.precision={precision}",
                      "trainer.gradient_clip_val=1.0", steps=20)  # fmt: skip
    assert said(caplog) == []
    assert graphs(trained).replayed + graphs(trained).checked == 37


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_step_that_waits_trains_is_tested_and_trains_again(tmp_path, caplog):
    settings = [*GPU, "callbacks=none"]
    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *settings, module_class=LooksAtTheLoss, steps=7)
    (message,) = said(caplog)
    assert message.startswith("no CUDA graph: a step waits for the device at test_graph_gpu.py:")
    torch.cuda.empty_cache()
    tried.trainer.test(tried.module, tried.trainer.datamodule, verbose=False)
    tried.trainer.fit_loop.max_epochs = 3
    tried.trainer.fit(tried.module, datamodule=tried.trainer.datamodule)
    assert tried.trainer.global_step == 66


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_after_a_capture_that_fails_the_training_goes_on(tmp_path, caplog, monkeypatch):
    class Invisible(Classifier):
        """Does in a capture, unseen before, what is not permitted in it."""

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if torch.cuda.is_current_stream_capturing():
                loss.item()
            return loss

    with caplog.at_level(logging.INFO):
        tried = fit(tmp_path, *GPU, module_class=Invisible, steps=7)
    (message,) = said(caplog)
    assert message.startswith("no CUDA graph: the step cannot be captured: ")
    torch.cuda.empty_cache()
    tried.trainer.test(tried.module, tried.trainer.datamodule, verbose=False)
    tried.trainer.fit_loop.max_epochs = 3
    tried.trainer.fit(tried.module, datamodule=tried.trainer.datamodule)
    assert tried.trainer.global_step == 66
    assert tried.weights().isfinite().all()


def test_flips_of_torchvision_that_draw_on_the_cpu_are_found(tmp_path, caplog):
    class Flips(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step((v2.RandomHorizontalFlip()(batch[0]), batch[1]), batch_idx)

    with caplog.at_level(logging.INFO):
        fit(tmp_path, *GPU, "augment=none", module_class=Flips, steps=7)
    (message,) = said(caplog)
    assert message.startswith(("no CUDA graph: a step draws random numbers on the CPU", "no CUDA graph: a step waits"))


def test_mixup_of_torchvision_is_found(tmp_path, caplog):
    class Mixes(Classifier):
        def training_step(self, batch, batch_idx):
            images, labels = v2.MixUp(num_classes=10)(*batch)
            loss = self.train_loss(self(images), labels)
            self.log("train/loss", loss)
            return loss

    with caplog.at_level(logging.INFO):
        fit(tmp_path, *GPU, "augment=none", module_class=Mixes, steps=7)
    (message,) = said(caplog)
    assert message.startswith(("no CUDA graph: a step draws random numbers on the CPU", "no CUDA graph: a step waits"))


def test_memory_returns_after_the_training(tmp_path):
    def reserved():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    fit(tmp_path, *GPU, steps=7)
    before = reserved()
    fit(tmp_path, *GPU, "data.batch_size=1000", steps=7)
    assert reserved() - before <= 8 * 2**20


@pytest.mark.parametrize(("batch_size", "batches"), [(1600, 2), (900, 4)])
def test_of_a_few_batches_an_epoch_the_common_shape_is_captured(tmp_path, eager, batch_size, batches):
    settings = [*GPU, f"data.batch_size={batch_size}", "trainer.max_epochs=6"]
    captured = fit(tmp_path, *settings, steps=7)
    assert graphs(captured).replayed + graphs(captured).checked == 6 * (batches - 1) - 3


def test_batches_from_workers_are_captured_in_pinned_memory(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trained = fit(tmp_path, *GPU, "data.loader=workers", "data.num_workers=2", steps=7)
    assert said(caplog) == []
    assert graphs(trained).replayed > 0
    in_memory = fit(tmp_path, *GPU, steps=7)
    assert trained.weights().allclose(in_memory.weights(), atol=0.02)


COMMAND = (
    "train", "trainer=gpu", "trainer.max_epochs=-1", "trainer.steps_per_execution=7", "data.val_size=57000",
    "data.batch_size=140", "trainer.limit_val_batches=1", "test=false", "views=none",
)  # fmt: skip


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_deterministic_training_goes_on_to_the_bit_in_mid_epoch(tmp_path, command):
    settings = [*COMMAND, "trainer.deterministic=true", "augment=affine", "callbacks=ema"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, steps in ((whole, 40), (parts, 15)):
        done = command(*settings, f"trainer.max_steps={steps}", f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stderr
    done = command("train", f"resume={parts}", "trainer.max_steps=40")
    assert done.returncode == 0, done.stderr
    assert " steps, of which " in record(whole)["cuda_graph"]
    assert " steps, of which " in record(parts)["cuda_graph"]
    expected, own = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]
        for folder in (whole, parts)
    )
    assert all(torch.equal(own[name], value) for name, value in expected.items())


def test_two_jobs_share_a_gpu(tmp_path, command):
    jobs = ["seed=1,2", "launcher=local", "launcher.jobs_per_device=2", f"paths.logs={tmp_path}/logs"]
    done = command("train", "-m", *COMMAND[1:], "trainer.max_steps=40", *jobs)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    for job in ("0", "1"):
        assert record(sweep / job)["status"] == "done"
        assert " steps, of which " in record(sweep / job)["cuda_graph"]
