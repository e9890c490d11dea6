import json
import math
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import SHORT
from processes import Process, all_of, at, forking_others, in_doubles, kill_itself, run, script
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from digits.classifier import Classifier
from litlab.distributed import group
from litlab.distributed.ddp import ExactDDP
from litlab.errors import ProcessLost

pytestmark = pytest.mark.usefixtures("mnist_dir")

# 501 images to train on, so that the last batch has one, and validation and test batches that are not even, either.
UNEVEN = (
    "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2", "data.val_size=59499", "data.batch_size=50",
    "data.eval_batch_size=101", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2",
    "trainer.num_sanity_val_steps=0", "trainer.steps_per_execution=5", "views=none",
)  # fmt: skip
EVERYTHING = (*UNEVEN, "callbacks=ema", "optimizer=adamw", "scheduler=onecycle", "trainer.gradient_clip_val=0.5")
EXACTLY = all_of(forking_others, in_doubles)
TWO = (*SHORT, "trainer.devices=2", "trainer.num_sanity_val_steps=0")


def record(folder):
    return json.loads((folder / "run.json").read_text())


def weights(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([weight.flatten() for weight in state.values()])


def curves(folder):
    """The values of all curves, by name and step."""
    return {
        (name, step): value
        for name, step, value in script("dev/kill_and_resume").events(folder)
        if isinstance(value, float) and "_class/" not in name
    }


def pictures(folder):
    """What views have drawn, by tag."""
    (file,) = folder.glob("events.out.tfevents.*")
    values = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    return {
        value.tag: value.tensor for value in values if value.metadata.plugin_data.plugin_name in ("images", "pr_curves")
    }


def require_same_training(folder, other):
    """Make sure that the two have the same weights, curves and metrics, but for the last digits."""
    torch.testing.assert_close(weights(folder), weights(other), rtol=0, atol=1e-9)
    ours, theirs = map(curves, (folder, other))
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    for part in ("last", "best", "test", "test_by_class"):
        metrics = [record(one)["metrics"][part] for one in (folder, other)]
        for values in metrics:
            values.pop("examples_per_second", None)
        assert metrics[0] == pytest.approx(metrics[1], rel=1e-6), part
    accuracies = [record(one)["metrics"]["test"]["test/acc"] for one in (folder, other)]
    assert accuracies[0] == accuracies[1]


def train_in(folder, processes, *arguments, prepare=EXACTLY):
    done = run(folder, "train", *arguments, f"trainer.devices={processes}", f"hydra.run.dir={folder}/{processes}",
               prepare=prepare)  # fmt: skip
    assert (done.code, done.err) == (0, "")
    return folder / str(processes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return train_in(folder, 1, *EVERYTHING, "views=[mistakes,confusion,pr_curves]")


def test_two_processes_train_as_one_does(alone, tmp_path):
    two = train_in(tmp_path, 2, *EVERYTHING, "views=[mistakes,confusion,pr_curves]")
    require_same_training(two, alone)
    assert record(two)["device"].startswith("2 processes, each on cpu")
    assert record(two)["metrics"]["validations"] == [
        validation | {"metrics": pytest.approx(validation["metrics"])}
        for validation in record(alone)["metrics"]["validations"]
    ]
    drawn = pictures(two)
    assert {"test/confusion", "test/mistakes", "test_class/0", "val/confusion", "val_class/9"} <= drawn.keys()
    assert drawn == pictures(alone)


@pytest.mark.slow
def test_three_processes_train_as_one_does(alone, tmp_path):
    require_same_training(train_in(tmp_path, 3, *EVERYTHING), alone)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["trainer.accumulate_grad_batches=3"], marks=pytest.mark.slow),
        ["trainer.steps_per_execution=1", "data.loader=workers", "data.num_workers=0"],
    ],
    ids=["accumulated gradients", "Lightning's steps and a DataLoader"],
)
def test_so_they_do_in_other_ways(tmp_path, overrides):
    one, two = (train_in(tmp_path, processes, *UNEVEN, *overrides) for processes in (1, 2))
    require_same_training(two, one)


def stopping(step, hook="on_train_batch_end"):
    return all_of(EXACTLY, at(hook, step))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on(alone, tmp_path, before, after):
    folder, arguments = tmp_path / "run", [*EVERYTHING, "checkpoint.every_n_steps=7", f"trainer.devices={before}"]
    killed = run(tmp_path, "train", *arguments, f"hydra.run.dir={folder}", prepare=stopping(5))
    assert killed.code == -signal.SIGKILL
    resumed = run(tmp_path, "train", f"resume={folder}", f"trainer.devices={after}", prepare=EXACTLY)
    assert resumed.code == 0, resumed.err
    assert record(folder)["resumed"][0]["step"] == 14
    assert "it will not be exact to the bit" in resumed.out
    require_same_training(folder, alone)


@pytest.mark.slow
def test_as_many_processes_go_on_to_the_bit(tmp_path):
    arguments = [*TWO, "trainer.max_epochs=2", "augment=affine", "callbacks=ema", "checkpoint.every_n_steps=7"]
    arguments += ["trainer.steps_per_execution=5"]
    folders = [tmp_path / name for name in ("straight", "stopped")]
    for folder, prepare in zip(
        folders, (forking_others, all_of(forking_others, at("on_train_batch_end", 8))), strict=True
    ):
        run(tmp_path, "train", *arguments, f"hydra.run.dir={folder}", prepare=prepare)
    resumed = run(tmp_path, "train", f"resume={folders[1]}", prepare=forking_others)
    assert (resumed.code, resumed.err) == (0, "")
    torture = script("dev/kill_and_resume")
    assert torture.compare_weights(*folders) == []
    assert torture.events(folders[0]) == torture.events(folders[1])


def test_processes_augment_in_different_ways(tmp_path):
    """Each draws from its own numbers: with the same ones, two halves of a batch would be turned alike."""

    def note_draws():
        training_step = Classifier.training_step

        def noting_step(module, batch, batch_idx):
            if batch_idx == 0:
                (tmp_path / str(group.current_rank().rank)).write_text(str(torch.rand(1).item()))
            return training_step(module, batch, batch_idx)

        Classifier.training_step = noting_step

    run(
        tmp_path,
        "train",
        *TWO,
        "test=false",
        f"hydra.run.dir={tmp_path}/run",
        prepare=all_of(forking_others, note_draws),
    )
    assert (tmp_path / "0").read_text() != (tmp_path / "1").read_text()


def log_in_many_ways():
    """Make the module log what takes in all processes, each in its way; and what is only known when an epoch ends."""
    from torchmetrics.classification import MulticlassAccuracy

    init, step, validate = Classifier.__init__, Classifier.training_step, Classifier.validation_step

    def with_metric(module, *args, **kwargs):
        init(module, *args, **kwargs)
        module.seen = MulticlassAccuracy(num_classes=10)

    def logging_step(module, batch, batch_idx):
        images, labels = batch
        loss = step(module, batch, batch_idx)
        count = len(labels) if module.trainer.fit_loop.epoch_loop.share else 0  # not of one that fills a gap
        if count:
            module.seen(module(images), labels)
        module.log("epoch/acc", module.seen, on_step=False, on_epoch=True)
        module.log("epoch/mean", loss, on_step=False, on_epoch=True)
        module.log("epoch/weighted", loss, on_step=False, on_epoch=True, batch_size=count)
        module.log("sum", float(count), on_step=True, on_epoch=True, reduce_fx="sum")
        module.log("largest", labels.max().float() - 10, on_epoch=True, reduce_fx="max")
        module.log("smallest", labels.min().float() + 10, on_epoch=True, reduce_fx="min")
        return loss

    def validation_step(module, batch, batch_idx):
        validate(module, batch, batch_idx)
        labels = batch[1].double()
        module.log("val/count", float(len(labels)), reduce_fx="sum")
        module.log("val/mean_label", labels.mean(), batch_size=len(labels))
        module.log("val/largest", labels.max(), reduce_fx="max")

    Classifier.__init__, Classifier.training_step = with_metric, logging_step
    Classifier.validation_step = validation_step


@pytest.mark.slow
def test_whatever_is_logged_is_that_of_all_examples(tmp_path):
    prepare = all_of(EXACTLY, log_in_many_ways)
    one, two = (train_in(tmp_path, processes, *UNEVEN, prepare=prepare) for processes in (1, 2))
    require_same_training(two, one)
    assert record(two)["metrics"]["last"]["sum"] == 501
    assert record(two)["metrics"]["last"]["val/count"] == 202
    folder = tmp_path / "stopped"
    arguments = [*UNEVEN, "checkpoint.every_n_steps=5", "trainer.devices=2", f"hydra.run.dir={folder}"]
    killed = run(tmp_path, "train", *arguments, prepare=all_of(prepare, at("on_train_batch_end", 2)))
    assert killed.code == -signal.SIGKILL
    assert run(tmp_path, "train", f"resume={folder}", "trainer.devices=3", prepare=prepare).code == 0
    require_same_training(folder, one)


def only_in(rank, action):
    """What does something in one of the processes, at its seventh step."""

    def prepare():
        training_step = Classifier.training_step

        def acting_step(module, batch, batch_idx):
            loss = training_step(module, batch, batch_idx)
            return action(loss) if batch_idx == 7 and group.current_rank().rank == rank else loss

        Classifier.training_step = acting_step

    return all_of(forking_others, prepare)


def test_a_signal_to_the_first_stops_all_after_the_same_step(tmp_path):
    folder = tmp_path / "run"
    long = [*TWO, "trainer.max_epochs=100", "trainer.limit_train_batches=200", f"hydra.run.dir={folder}"]
    process = Process(tmp_path, "train", *long, prepare=forking_others)
    process.wait_for((folder / "checkpoints" / "best.ckpt").exists)
    time.sleep(0.2)
    process.send(signal.SIGTERM)
    ended = process.end()
    assert (ended.code, ended.err) == (143, "train: stopped by SIGTERM\n")
    assert (record(folder)["status"], record(folder)["reason"]) == ("interrupted", "SIGTERM")
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    resumed = run(tmp_path, "train", f"resume={folder}", "trainer.max_epochs=100", "resume.force=true",
                  f"trainer.max_steps={step + 3}", prepare=forking_others)  # fmt: skip
    assert (resumed.code, resumed.err) == (0, "")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_no_number_stops_all(tmp_path, rank):
    folder = tmp_path / "run"
    ended = run(tmp_path, "train", *TWO, f"hydra.run.dir={folder}", prepare=only_in(rank, lambda loss: loss * math.nan))
    assert ended.code == 1
    assert ended.err.startswith(
        "train: the loss became nan at step 7, with a learning rate of 0.001; none was kept; try"
    )
    assert record(folder)["status"] == "failed"


def test_a_batch_is_dropped_by_all(tmp_path):
    """As a single process drops the whole batch."""
    ends = []
    for processes, rank in ((1, 0), (2, 1)):
        folder = tmp_path / str(processes)
        poison = all_of(in_doubles, only_in(rank, lambda loss: loss * math.inf))
        done = run(tmp_path, "train", *UNEVEN, "trainer.max_epochs=1", "trainer.on_nan=skip", "callbacks=ema",
                   f"trainer.devices={processes}", f"hydra.run.dir={folder}", prepare=poison)  # fmt: skip
        assert (done.code, done.err) == (0, "")
        assert record(folder)["skipped_batches"] == 1
        ends.append(folder)
    require_same_training(*ends)


def test_a_process_that_is_killed_ends_the_training_which_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    arguments = [*TWO, "checkpoint.every_n_steps=5", "trainer.steps_per_execution=5", f"hydra.run.dir={folder}"]
    begun = time.monotonic()
    ended = run(tmp_path, "train", *arguments, prepare=only_in(1, lambda _: kill_itself()))
    assert time.monotonic() - begun < 60
    assert ended.code == 1
    assert ended.lines() == [
        "train: process 1 was killed by SIGKILL; what was saved is whole, go on with: "
        f"python -m litlab train resume={folder}"
    ]
    assert (record(folder)["status"], record(folder)["reason"].partition(";")[0]) == (
        "interrupted", "process 1 was killed by SIGKILL",
    )  # fmt: skip
    resumed = run(tmp_path, "train", f"resume={folder}", prepare=forking_others)
    assert (resumed.code, resumed.err) == (0, "")
    assert record(folder)["resumed"][0]["step"] == 5


def fail(_loss):
    raise ArithmeticError("something is wrong")


def test_an_error_in_another_process_is_raised_in_the_first(tmp_path):
    folder = tmp_path / "run"
    ended = run(tmp_path, "train", *TWO, f"hydra.run.dir={folder}", prepare=only_in(1, fail))
    assert ended.code == 1
    assert "ArithmeticError: something is wrong" in ended.err  # with its traceback
    assert record(folder)["status"] == "failed"
    assert record(folder)["reason"] == "RuntimeError: process 1 has failed: something is wrong"


def test_when_the_first_is_killed_none_is_left(tmp_path):
    def note_id():
        training_step = Classifier.training_step

        def noting_step(module, batch, batch_idx):
            (tmp_path / str(group.current_rank().rank)).write_text(str(os.getpid()))
            return training_step(module, batch, batch_idx)

        Classifier.training_step = noting_step

    prepare = all_of(forking_others, note_id, at("on_validation_start"))
    killed = run(tmp_path, "train", *TWO, f"hydra.run.dir={tmp_path}/run", prepare=prepare)
    assert killed.code == -signal.SIGKILL
    other, until = int((tmp_path / "1").read_text()), time.monotonic() + 20
    while os.path.exists(f"/proc/{other}") and time.monotonic() < until:  # noqa: PTH110
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{other}")  # noqa: PTH110


@pytest.mark.parametrize(("overrides", "message"), [
    (["data.batch_size=1"], "a batch of 1 cannot be shared by 2 processes: take larger batches, more data, or fewer"),
    (["trainer.devices=-1"], "trainer.devices=-1 means all GPUs, but trainer.accelerator is cpu: say how many"),
])  # fmt: skip
def test_what_cannot_be_is_told_once(tmp_path, overrides, message):
    ended = run(tmp_path, "train", *TWO, *overrides, f"hydra.run.dir={tmp_path}/run", prepare=forking_others)
    assert ended.code == 2
    assert len(ended.lines()) == 1
    assert message in ended.err


def test_the_module_is_wrapped_on_the_stream_that_trains(monkeypatch):
    made = []
    monkeypatch.setattr(
        "litlab.distributed.ddp.DistributedDataParallel", lambda *given, **options: made.append((given, options))
    )
    monkeypatch.setattr(ExactDDP, "determine_ddp_device_ids", lambda strategy: [0])
    monkeypatch.setattr(torch.cuda, "Stream", lambda: pytest.fail("another stream"))
    module = torch.nn.Linear(1, 1)
    ExactDDP()._setup_model(module)
    assert made == [((module,), {"device_ids": [0], "gradient_as_bucket_view": True})]


def test_a_device_is_not_waited_for_once_another_process_has_ended(monkeypatch):
    class Never:
        def query(self):
            return False

    class Done:
        def __init__(self):
            self.asked = 0

        def query(self):
            self.asked += 1
            return self.asked > 3

    alive, killed = SimpleNamespace(exitcode=None), SimpleNamespace(exitcode=-9)
    monkeypatch.setattr(group, "_group", group.Group(group.SINGLE_PROCESS, started=[alive]))
    group.wait_for_device(Done())
    monkeypatch.setattr(group, "_group", group.Group(group.SINGLE_PROCESS, started=[alive, killed]))
    with pytest.raises(ProcessLost, match="process 2 was killed by SIGKILL"):
        group.wait_for_device(Never())
