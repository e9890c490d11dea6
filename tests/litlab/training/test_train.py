import json
import math
import shlex
import subprocess
import sys

import pytest
import torch
from conftest import SHORT, settings, train
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from digits.classifier import Classifier
from litlab.errors import UserError
from litlab.runs.checkpoint import load_weights
from litlab.training.build import build_module

pytestmark = pytest.mark.usefixtures("mnist_dir")


def curve(folder, name):
    """Steps and values of a scalar in TensorBoard's files."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars(name)
    return [event.step for event in events], [event.value for event in events]


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A run of two short epochs, with what its record says."""
    folder = tmp_path_factory.mktemp("run")
    result = train(settings(*SHORT, "trainer.max_epochs=2", "trainer.limit_val_batches=2"), folder)
    return folder, result


def test_a_run_leaves_what_it_is_made_of(two_epochs):
    folder, _ = two_epochs
    assert {"run.json", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    said = record(folder)
    assert said["status"] == "done"
    assert said["seed"] == 42
    assert said["device"].startswith("cpu")
    assert said["examples_per_second"] > 0
    assert said["checkpoints"] == {"best": "checkpoints/best.ckpt", "last": "checkpoints/last.ckpt"}
    assert said["metrics"]["monitor"] == "val/acc"
    assert said["ended"] > said["started"]


def test_curves_have_every_step(two_epochs):
    folder, _ = two_epochs
    for name in ("train/loss", "train/acc", "learning_rate"):
        steps, values = curve(folder, name)
        assert steps == list(range(40))
        assert all(map(math.isfinite, values))
    for name in ("val/loss", "val/acc", "examples_per_second"):
        assert curve(folder, name)[0] == [19, 39]


def test_the_record_says_what_the_curves_say(two_epochs):
    folder, result = two_epochs
    metrics = record(folder)["metrics"]
    _, accuracies = curve(folder, "val/acc")
    _, losses = curve(folder, "val/loss")
    assert metrics["last"]["val/acc"] == accuracies[-1]
    assert metrics["last"]["train/loss"] == curve(folder, "train/loss")[1][-1]
    assert metrics["best"] == {"val/acc": max(accuracies), "val/loss": losses[accuracies.index(max(accuracies))]}
    assert metrics["best_epoch"] == accuracies.index(max(accuracies))
    assert metrics["test"]["test/acc"] == curve(folder, "test/acc")[1][0]
    assert result.record.measured("val/acc") == max(accuracies)


def test_checkpoints_are_plain_data(two_epochs):
    folder, _ = two_epochs
    for name in ("best", "last"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert set(checkpoint["state_dict"]) >= {"net.conv1.0.weight", "net.out.bias"}
        assert checkpoint["epoch"] == (record(folder)["metrics"]["best_epoch"] if name == "best" else 1)


def test_the_best_weights_are_tested_not_the_last(test_set, tmp_path):
    class Forget(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                for parameter in pl_module.parameters():
                    parameter.data.zero_()

    config = settings(*SHORT, "trainer.max_epochs=2", "trainer.limit_train_batches=60", "trainer.limit_test_batches=4",
                      "trainer.precision=32-true")  # fmt: skip
    train(config, tmp_path, callbacks=[Forget()])
    metrics = record(tmp_path)["metrics"]
    _, accuracies = curve(tmp_path, "val/acc")
    assert metrics["best_epoch"] == accuracies.index(max(accuracies))
    assert metrics["best_epoch"] == 0, accuracies

    images, labels = test_set[0][:2000].float() / 255, test_set[1][:2000]

    def accuracy(name):
        module = build_module(config)
        load_weights(module, tmp_path / "checkpoints" / f"{name}.ckpt")
        with torch.no_grad():
            return (module(images).argmax(1) == labels).double().mean().item()

    assert metrics["test"]["test/acc"] == pytest.approx(accuracy("best"))
    assert metrics["test"]["test/acc"] != pytest.approx(accuracy("last"))


def test_the_record_and_the_checkpoint_agree_on_the_best_epoch(tmp_path, monkeypatch, caplog):
    validate = Classifier.validation_step

    def with_nan_at_first(module, batch, batch_idx):
        validate(module, batch, batch_idx)
        module.log("val/odd", torch.tensor([math.nan, 0.5, 0.5, 0.2][module.current_epoch]), on_epoch=True)

    monkeypatch.setattr(Classifier, "validation_step", with_nan_at_first)
    overrides = ["trainer.max_epochs=4", "checkpoint.monitor=val/odd", "checkpoint.mode=max", "test=false"]
    run = train(settings(*SHORT, *overrides), tmp_path)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert record(tmp_path)["metrics"]["best_epoch"] == best["epoch"] == 1
    assert run.record.measured("val/odd") == 0.5
    told = [line for line in caplog.messages if " in the validation after step " in line]
    assert [line.partition(" in ")[0] for line in told] == ["val/odd is nan"]


@pytest.mark.slow
def test_a_run_is_never_overwritten(command, tmp_path):
    done = command("train", *SHORT, "test=false", "logger=none", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    again = command("train", *SHORT, "model.net.channels=[8,8]", f"hydra.run.dir={tmp_path / 'run'}")
    assert again.returncode == 2
    assert again.stderr == f"train: {tmp_path / 'run'} holds a run already: choose another folder\n"
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_weights(command, tmp_path):
    arguments = [*SHORT, "trainer.limit_train_batches=50", "logger=none", "test=false"]
    for name in ("a", "b"):
        done = command("train", *arguments, f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("a", "b")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(tmp_path):
    losses = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        train(settings(*SHORT, f"seed={seed}", "test=false"), folder)
        losses.append(curve(folder, "train/loss")[1])
        assert record(folder)["seed"] == seed
    assert losses[0] != losses[1]


def test_test_false_leaves_the_test_set_alone(tmp_path):
    train(settings(*SHORT, "test=false"), tmp_path)
    assert record(tmp_path)["metrics"]["test"] == {}
    assert record(tmp_path)["metrics"]["last"]["val/acc"] > 0


def test_without_validation_the_last_weights_are_the_result(tmp_path):
    result = train(settings(*SHORT, "data.val_size=0", "checkpoint.monitor=null"), tmp_path)
    assert result.record.measured("val/acc") is None
    assert record(tmp_path)["checkpoints"] == {"last": "checkpoints/last.ckpt"}
    assert record(tmp_path)["metrics"]["test"]["test/acc"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "checkpoint.monitor=val/accc",
            "checkpoint.monitor=val/accc: no such metric; validation logs val/acc, val/loss",
        ),
        ("data.val_size=0", "checkpoint.monitor=val/acc: no such metric; there is no validation data; set"),
        ("trainer.limit_val_batches=0", "checkpoint.monitor=val/acc: no such metric; there is no validation data; set"),
    ],
)
def test_a_monitor_that_does_not_exist_is_told_before_training(tmp_path, override, message):
    with pytest.raises(UserError, match="checkpoint.monitor") as error:
        train(settings(*SHORT, override, "checkpoint.mode=max"), tmp_path)
    assert str(error.value).startswith(message)
    assert record(tmp_path)["status"] == "failed"
    assert message in record(tmp_path)["reason"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("override", ["trainer.val_check_interval=100000", "trainer.devices=[0]", "trainer=gpu"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_lightning_refuses_is_the_users_to_put_right(tmp_path, override):
    with pytest.raises(UserError, match="Lightning refuses these settings: "):
        train(settings(*SHORT[1:], override), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told_in_one_line(command):
    done = command("train", "trainer=gpu")
    assert done.returncode == 2
    assert done.stderr == "train: Lightning refuses these settings: No supported gpu backend found!\n"


def test_a_crash_is_recorded(tmp_path, monkeypatch):
    def crash(*args):
        raise MemoryError("too large")

    monkeypatch.setattr("digits.classifier.Classifier.training_step", crash)
    with pytest.raises(MemoryError):
        train(settings(*SHORT), tmp_path)
    assert record(tmp_path)["status"] == "failed"
    assert record(tmp_path)["reason"] == "MemoryError: too large"


@pytest.mark.parametrize("loader", ["memory", "workers"])
def test_neither_the_loader_nor_the_steps_at_a_time_change_the_weights(tmp_path, loader):
    def weights(name, *overrides):
        (tmp_path / name).mkdir()
        common = [*SHORT, "augment=affine", "callbacks=ema", "test=false"]
        run = train(settings(*common, *overrides), tmp_path / name)
        state = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([weight.flatten() for weight in state.values()]), curve(run.folder, "train/loss")

    expected, losses = weights("in memory", "trainer.steps_per_execution=1")
    found, found_losses = weights("other", f"data.loader={loader}", "trainer.steps_per_execution=7")
    assert torch.equal(found, expected)
    assert found_losses == losses


def test_schedules_move_the_learning_rate(tmp_path):
    def rates(name, *overrides):
        (tmp_path / name).mkdir()
        train(settings(*SHORT, f"scheduler={name}", "optimizer.lr=0.1", "test=false", *overrides), tmp_path / name)
        return curve(tmp_path / name, "learning_rate")[1]

    onecycle = rates("onecycle", "scheduler.warmup=0.25")
    assert max(onecycle) == onecycle[4] == pytest.approx(0.1)
    assert onecycle[0] == pytest.approx(0.1 / 25)
    assert onecycle[-1] < 1e-5
    cosine = rates("cosine", "scheduler.final_lr=0.02")
    expected = [0.02 + 0.04 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert cosine == pytest.approx(expected)


def test_max_steps_in_mid_epoch_still_leaves_weights(tmp_path):
    train(settings(*SHORT, "trainer.max_steps=7"), tmp_path)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 7
    assert record(tmp_path)["metrics"]["test"]["test/acc"] > 0


def test_other_loggers(tmp_path):
    (tmp_path / "csv").mkdir()
    train(settings(*SHORT, "logger=csv", "test=false"), tmp_path / "csv")
    rows = (tmp_path / "csv" / "csv" / "metrics.csv").read_text().splitlines()
    assert "train/loss" in rows[0].split(",")
    assert len(rows) > 20
    (tmp_path / "none").mkdir()
    train(settings(*SHORT, "logger=none", "test=false"), tmp_path / "none")
    assert {path.name for path in (tmp_path / "none").iterdir()} == {"run.json", ".lock", "checkpoints"}


@pytest.mark.slow
def test_a_multirun_gives_each_job_a_folder(command, tmp_path):
    done = command("train", "-m", "seed=0,1", *SHORT, "test=false")
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    records = [record(sweep / job) for job in ("0", "1")]
    assert [job["seed"] for job in records] == [0, 1]
    assert [job["status"] for job in records] == ["done", "done"]
    assert records[0]["metrics"]["last"]["train/loss"] != records[1]["metrics"]["last"]["train/loss"]
    assert "seed: 1" in (sweep / "1" / "config.yaml").read_text()


@pytest.mark.slow
def test_output_that_is_no_terminal_gets_a_line_an_epoch(command, tmp_path):
    done = command("train", *SHORT, "trainer.max_epochs=3", "test=false")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\r" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 0", "epoch 1", "epoch 2"]
    assert all("train/loss " in line and "val/acc " in line for line in lines)
    (run,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    log = (run / "train.log").read_text()
    assert all(line in log for line in lines)


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar(tmp_path):
    train_command = [sys.executable, "-m", "litlab", "train", *SHORT, "test=false", f"paths.logs={tmp_path}"]
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", shlex.join(train_command), "/dev/null"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "Epoch 0/0" in done.stdout
    assert "20/20" in done.stdout


def test_debug_overfit_learns_its_batches_by_heart(tmp_path):
    train(settings("debug=overfit", "trainer.accelerator=cpu"), tmp_path)
    _, accuracies = curve(tmp_path, "train/acc")
    assert accuracies[-10:] == [1.0] * 10


def test_debug_profile_reports_where_the_time_goes(tmp_path):
    train(settings("debug=profile", "trainer.limit_train_batches=5"), tmp_path)
    assert "run_training_batch" in (tmp_path / "fit-profile.txt").read_text()
