import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import SHORT, compose
from omegaconf import OmegaConf
from processes import Process, at, contents, run, script, while_writing
from torchmetrics.classification import MulticlassAccuracy

from digits.classifier import Classifier
from litlab.commands.resume import resumed_config
from litlab.config.compose import run_config, write_config
from litlab.errors import UserError
from litlab.messages import as_override
from litlab.runs.run import Run

pytestmark = pytest.mark.usefixtures("mnist_dir")

TWO_EPOCHS = (
    *SHORT, "trainer.max_epochs=2", "trainer.limit_val_batches=3", "augment=affine", "callbacks=ema",
    "scheduler=onecycle", "logger=[tensorboard,csv]", "checkpoint.every_n_steps=6",
)  # fmt: skip

# These weights never change, so `best/…` stays, which is said once; and no validation follows the last step.
SHOWN = (
    *TWO_EPOCHS[:-1], "trainer.limit_train_batches=10", "checkpoint.every_n_steps=4",
    "views=[batch,mistakes,confusion,filters,pr_curves,graph,projector]", "scheduler=none", "callbacks=none",
    "optimizer.lr=1e-30", "trainer.val_check_interval=4",
)  # fmt: skip
DRAWN = {
    "train/batch", "val/mistakes", "test/mistakes", "val/confusion", "test/confusion", "filters", "test_class/0",
    "__run_graph__", "custom_scalars__config__", "_hparams_/session_start_info", "_hparams_/session_end_info",
    "run/results/text_summary", "best/epoch",
}  # fmt: skip


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Runs that were never stopped, by the number of steps at a time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for steps in (1, 7):
        arguments = [*TWO_EPOCHS, f"trainer.steps_per_execution={steps}", f"hydra.run.dir={folder}/{steps}"]
        done = run(folder, "train", *arguments)
        assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run that was never stopped and shows all that it can, but does not get better."""
    folder = tmp_path_factory.mktemp("shown") / "run"
    done = run(folder.parent, "train", *SHOWN, f"hydra.run.dir={folder}")
    assert done.code == 0, done.err
    assert {tag for tag, *_ in script("dev/kill_and_resume").events(folder)} >= DRAWN
    return folder


STOPS = {
    "before the first step": at("on_train_start"),
    "before the first checkpoint": at("on_train_batch_end", 1),
    "in the middle of an epoch": at("on_validation_start", 2),  # the first is the check before training
    "in a validation": at("on_validation_batch_end", 4),
    "at the end of an epoch": at("on_train_epoch_end"),
    "in the last validation": at("on_validation_batch_end", 6),
    "in the test": at("on_test_start"),
    "while the first checkpoint is written": while_writing("last.ckpt"),
    "while a later checkpoint is written": while_writing("last.ckpt", 4),
    "while the best weights are written": while_writing("best.ckpt"),
    "while run.json is written": while_writing("run.json", 4),
}


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize("stop", STOPS)
def test_a_killed_run_ends_in_the_same_weights_and_curves(undisturbed, tmp_path, stop, steps):
    folder = tmp_path / "run"
    arguments = [*TWO_EPOCHS, f"trainer.steps_per_execution={steps}", f"hydra.run.dir={folder}"]
    killed = run(tmp_path, "train", *arguments, prepare=STOPS[stop])
    assert killed.code == -signal.SIGKILL, killed.err
    assert record(folder)["status"] == "running"
    resumed = run(tmp_path, "train", f"resume={folder}")
    assert resumed.code == 0, resumed.err
    assert script("dev/kill_and_resume").compare(undisturbed / str(steps), folder) == []
    assert record(folder)["status"] == "done"
    assert len(record(folder)["resumed"]) == 1


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_comes_to_its_end(undisturbed, tmp_path):
    folder = tmp_path / "run"
    stopped = run(tmp_path, "train", *TWO_EPOCHS, "trainer.steps_per_execution=7", f"hydra.run.dir={folder}",
                  prepare=at("on_train_batch_end", 2))  # fmt: skip
    times = 0
    while stopped.code:
        assert stopped.code == -signal.SIGKILL
        stopped = run(tmp_path, "train", f"resume={folder}", prepare=at("on_train_batch_end", 2))
        times += 1
    assert times > 3
    assert script("dev/kill_and_resume").compare(undisturbed / "7", folder) == []
    assert [resumption["step"] for resumption in record(folder)["resumed"]][:2] == [6, 12]


def plateau():
    """Make the learning rate depend on what the validations give."""

    def configure_optimizers(module):
        optimizer = module.make_optimizer(module.parameters())
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}

    Classifier.configure_optimizers = configure_optimizers


@pytest.mark.parametrize("stop", [("on_train_epoch_end", 2), ("on_train_batch_end", 8), ("on_validation_start", 3)])
def test_a_schedule_that_looks_at_a_metric_goes_on_exactly(tmp_path, stop):
    common = [
        *SHORT,
        "test=false",
        "trainer.max_epochs=4",
        "trainer.steps_per_execution=5",
        "checkpoint.every_n_steps=5",
    ]
    assert run(tmp_path, "train", *common, f"hydra.run.dir={tmp_path}/a", prepare=plateau).code == 0

    def plateau_until_killed():
        plateau()
        at(*stop)()

    killed = run(tmp_path, "train", *common, f"hydra.run.dir={tmp_path}/b", prepare=plateau_until_killed)
    assert killed.code == -signal.SIGKILL
    assert run(tmp_path, "train", f"resume={tmp_path}/b", prepare=plateau).code == 0
    torture = script("dev/kill_and_resume")
    assert torture.compare_weights(tmp_path / "a", tmp_path / "b") == []
    rates = [value for name, _, value in torture.events(tmp_path / "b") if name == "learning_rate"]
    assert rates[-1] < rates[0] / 3
    assert torture.events(tmp_path / "b") == torture.events(tmp_path / "a")


def test_a_training_that_ends_by_the_clock_keeps_its_last_weights(tmp_path):
    arguments = [*SHORT, "trainer.max_epochs=-1", "trainer.max_time=00:00:00:02", "trainer.limit_train_batches=1.0"]
    arguments += ["data.val_size=0", "checkpoint.monitor=null", f"hydra.run.dir={tmp_path}/run"]
    done = run(tmp_path, "train", *arguments)
    assert done.code == 0, done.err
    assert record(tmp_path / "run")["metrics"]["test"]["test/acc"] > 0


@pytest.mark.parametrize(
    ("setting", "saved"),
    [("checkpoint.every_minutes=0.0001", 12), ("checkpoint.every_n_steps=5", 10), ("checkpoint.every_minutes=null", 0)],
)
def test_no_more_is_lost_than_was_asked_for(tmp_path, setting, saved):
    arguments = [*SHORT, "trainer.steps_per_execution=6", setting, f"hydra.run.dir={tmp_path}/run"]
    assert run(tmp_path, "train", *arguments, prepare=at("on_train_batch_end", 3)).code == -signal.SIGKILL
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert (torch.load(last, weights_only=True)["global_step"] if last.exists() else 0) == saved


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_more_epochs_give_what_as_many_at_once_give(tmp_path):
    common = [*SHORT, "trainer.steps_per_execution=7", "augment=affine"]
    assert run(tmp_path, "train", *common, "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/three").code == 0
    assert run(tmp_path, "train", *common, f"hydra.run.dir={tmp_path}/one").code == 0
    done = run(tmp_path, "train", f"resume={tmp_path}/one", "trainer.max_epochs=3")
    assert done.code == 0, done.err
    one, three = tmp_path / "one", tmp_path / "three"
    assert all(torch.equal(weight, weights(three)[name]) for name, weight in weights(one).items())
    torture = script("dev/kill_and_resume")
    assert torture.events(one) == torture.events(three)
    assert "max_epochs: 3" in (one / "config.yaml").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is done, one with a schedule, and an evaluation."""
    folder = tmp_path_factory.mktemp("finished")
    for name, override in {"plain": "seed=1", "scheduled": "scheduler=cosine"}.items():
        assert run(folder, "train", *SHORT, "test=false", override, f"hydra.run.dir={folder}/{name}").code == 0
    assert run(folder, "evaluate", f"run={folder}/plain", f"hydra.run.dir={folder}/evaluated").code == 0
    return folder


@pytest.mark.parametrize(
    ("run_name", "overrides", "message"),
    [
        ("plain", [], "resume={folder}: this run is done; a higher trainer.max_epochs trains on"),
        ("plain", ["trainer.max_epochs=1"], "resume={folder}: this run is done; a higher trainer.max_epochs trains on"),
        ("plain", ["trainer.devices=2"], "resume={folder}: this run is done; a higher trainer.max_epochs trains on"),
        ("plain", ["optimizer.lr=0.5"], "optimizer.lr=0.5: the run has 0.001; leave it out, or resume.force=true"),
        ("plain", ["optimizer=sgd"], "optimizer={{'_target_'"),
        ("plain", ["experiment=best"], "experiment=best: the run goes on with its own config; give single keys"),
        ("plain", ["trainer.max_epochs=0"], "trainer.max_epochs=0: should be -1 or greater than 0"),
        ("scheduled", ["trainer.max_epochs=4"], "trainer.max_epochs=4: the run's schedule is made for 1; leave it out"),
        ("evaluated", [], "resume={folder}: is an evaluation, of "),
        ("nowhere", [], "resume={folder}: there is no such file, folder or name of a run"),
    ],
)
def test_what_may_not_change_is_refused_by_name(finished, tmp_path, run_name, overrides, message):
    folder = finished / run_name
    before = contents(finished)
    refused = run(tmp_path, "train", f"resume={folder}", *overrides)
    assert refused.code == 2
    assert refused.err.startswith(f"train: {message.format(folder=folder)}"), refused.err
    assert len(refused.lines()) == 1
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("begun", "now", "message"),
    [
        ("trainer.max_epochs=2", "trainer.max_epochs=3", None),
        ("trainer.max_epochs=2", "trainer.max_epochs=-1", None),
        ("trainer.max_epochs=2", "trainer.max_epochs=1", "trainer.max_epochs=1: the run has 2; leave it out"),
        ("trainer.max_steps=20", "trainer.max_steps=30", None),
        ("trainer.max_steps=20", "trainer.max_steps=10", "trainer.max_steps=10: the run has 20; leave it out"),
        ("trainer.max_steps=-1", "trainer.max_steps=10", "trainer.max_steps=10: the run has -1; leave it out"),
        ("trainer.max_time=00:00:01:00", "trainer.max_time=00:00:00:90", None),
        ("trainer.max_time=00:00:01:00", "trainer.max_time=01:00:00:00", None),
        ("trainer.max_time=00:00:01:00", "trainer.max_time=null", None),
        ("trainer.max_time=00:00:01:00", "trainer.max_time=00:00:00:59", "trainer.max_time=00:00:00:59: the run has 0"),
        ("trainer.max_time=null", "trainer.max_time=00:00:01:00", "trainer.max_time=00:00:01:00: the run has null; le"),
        (
            "trainer.max_steps=20 scheduler=cosine",
            "trainer.max_steps=30",
            "trainer.max_steps=30: the run's schedule",
        ),
        ("trainer.max_time=00:00:01:00 scheduler=cosine", "trainer.max_time=00:00:02:00", None),
    ],
)
def test_a_limit_may_be_raised(tmp_path, begun, now, message):
    write_config(tmp_path, run_config(compose(*begun.split())))
    stopped = Run.create(tmp_path, seed=42)
    stopped.end("done")
    with pytest.raises(UserError, match=f"^{re.escape(message)}") if message else contextlib.nullcontext():
        config = resumed_config(stopped, compose(now), {now.partition("=")[0]: now})
        assert now.endswith(f"={as_override(OmegaConf.select(config, now.partition('=')[0]))}")
    with pytest.raises(UserError, match=f"this run is done; a higher .*{begun.partition('=')[0]}|max_epochs trains on"):
        resumed_config(stopped, compose(), {})


@pytest.mark.parametrize("file", ["run.json", "config.yaml"])
def test_a_run_that_is_killed_as_it_goes_on_can_still_go_on(finished, tmp_path, file):
    folder = shutil.copytree(finished / "plain", tmp_path / "run")
    before = script("dev/kill_and_resume").events(folder)
    longer = [f"resume={folder}", "trainer.max_epochs=2"]
    assert run(tmp_path, "train", *longer, prepare=while_writing(file)).code == -signal.SIGKILL
    assert record(folder)["status"] == "running" or script("dev/kill_and_resume").events(folder) == before
    done = run(tmp_path, "train", *longer)
    assert done.code == 0, done.err


def test_force_goes_on_with_other_settings(tmp_path):
    folder = tmp_path / "run"
    common = [*SHORT, "test=false", f"hydra.run.dir={folder}", "trainer.max_epochs=2", "trainer.steps_per_execution=5"]
    killed = run(tmp_path, "train", *common, prepare=at("on_train_epoch_end"))
    assert killed.code == -signal.SIGKILL
    done = run(tmp_path, "train", f"resume={folder}", "optimizer.lr=0.0004", "resume.force=true")
    assert done.code == 0, done.err
    rates = [value for name, step, value in script("dev/kill_and_resume").events(folder) if name == "learning_rate"]
    assert rates[19] == pytest.approx(0.001)
    assert rates[20:] == pytest.approx([0.0004] * 20)
    assert "lr: 0.0004" in (folder / "config.yaml").read_text()
    other = run(tmp_path, "train", f"resume={folder}", "optimizer=sgd", "resume.force=true")
    assert (other.code, other.err) == (2, "train: optimizer: another one cannot go on with the state of the run's\n")


def test_a_resume_that_is_refused_late_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    assert run(tmp_path, "train", *SHORT, "test=false", f"hydra.run.dir={folder}").code == 0
    kept = {name: (folder / name).read_bytes() for name in ("run.json", "config.yaml", "checkpoints/last.ckpt")}
    forced = ["model.net.channels=[8,8]", "trainer.max_epochs=2", "resume.force=true"]
    refused = run(tmp_path, "train", f"resume={folder}", *forced)
    assert refused.code == 2
    assert "last.ckpt is of another network: net.conv1.0.weight is of shape" in refused.err
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert run(tmp_path, "train", f"resume={folder}", "trainer.max_epochs=2").code == 0


def test_force_adds_a_logger_and_leaves_the_others_curves_alone(tmp_path):
    folder = tmp_path / "run"
    common = [*SHORT, "test=false", "trainer.max_epochs=2", f"hydra.run.dir={folder}"]
    assert run(tmp_path, "train", *common, prepare=at("on_train_epoch_end")).code == -signal.SIGKILL
    done = run(tmp_path, "train", f"resume={folder}", "logger=[csv,tensorboard]", "resume.force=true")
    assert done.code == 0, done.err
    steps = [step for name, step, _ in script("dev/kill_and_resume").events(folder) if name == "train/loss"]
    assert steps == list(range(40))
    assert "train/loss" in (folder / "csv" / "metrics.csv").read_text()


def test_force_makes_a_schedule_longer(tmp_path):
    folder = tmp_path / "run"
    common = [*SHORT, "test=false", "scheduler=onecycle", "trainer.steps_per_execution=5"]
    assert run(tmp_path, "train", *common, f"hydra.run.dir={folder}").code == 0
    done = run(tmp_path, "train", f"resume={folder}", "trainer.max_epochs=2", "resume.force=true")
    assert done.code == 0, done.err
    longer = run(tmp_path, "train", *common, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/longer")
    assert longer.code == 0, longer.err
    ours, theirs = (
        [value for name, _, value in script("dev/kill_and_resume").events(run) if name == "learning_rate"]
        for run in (folder, tmp_path / "longer")
    )
    assert ours[21:] == pytest.approx(theirs[21:])  # the next step's rate is in the state already


def test_the_same_command_with_resume_is_accepted(tmp_path):
    folder = tmp_path / "run"
    arguments = [*SHORT, "test=false", "optimizer=sgd", "optimizer.lr=0.02"]
    killed = run(tmp_path, "train", *arguments, f"hydra.run.dir={folder}", prepare=at("on_validation_start", 2))
    assert killed.code == -signal.SIGKILL
    done = run(tmp_path, "train", *arguments, f"resume={folder}")
    assert done.code == 0, done.err


def test_last_is_the_newest_unfinished_run(tmp_path):
    logs = f"paths.logs={tmp_path}/logs"
    nothing = run(tmp_path, "train", logs, "resume=last")
    assert (nothing.code, nothing.err) == (2, f"train: there is no unfinished run in {tmp_path}/logs/train\n")
    assert run(tmp_path, "train", logs, *SHORT, "test=false", prepare=at("on_train_epoch_end")).code == -signal.SIGKILL
    assert run(tmp_path, "train", logs, *SHORT, "test=false").code == 0
    unfinished, done = sorted(
        (tmp_path / "logs" / "train" / "runs").iterdir(), key=lambda path: Run.open(path).record.started
    )
    assert [record(folder)["status"] for folder in (unfinished, done)] == ["running", "done"]
    resumed = run(tmp_path, "train", logs, "resume=last")
    assert resumed.code == 0, resumed.err
    assert record(unfinished)["status"] == "done"
    assert len(list((tmp_path / "logs" / "train" / "runs").iterdir())) == 2


def test_a_run_that_is_at_work_is_left_alone(tmp_path):
    folder = tmp_path / "run"
    at_work = Process(tmp_path, "train", *SHORT, "trainer.max_epochs=1000", f"hydra.run.dir={folder}")
    at_work.wait_for((folder / "checkpoints" / "last.ckpt").exists)
    for arguments in ([f"resume={folder}"], [*SHORT, f"hydra.run.dir={folder}"]):
        refused = run(tmp_path, "train", *arguments)
        assert refused.code == 2
        assert "another process is at work on this run" in refused.err or "holds a run already" in refused.err
        assert len(refused.lines()) == 1
    at_work.send(signal.SIGKILL)
    at_work.end()


@pytest.mark.slow
def test_a_run_that_moved_goes_on_where_it_is(undisturbed, tmp_path):
    arguments = [*TWO_EPOCHS, "trainer.steps_per_execution=7", f"hydra.run.dir={tmp_path}/here"]
    assert run(tmp_path, "train", *arguments, prepare=at("on_validation_start", 3)).code == -signal.SIGKILL
    (tmp_path / "here").rename(tmp_path / "it's there")
    (tmp_path / "here").mkdir()
    done = run(tmp_path, "train", f"resume='{tmp_path}/it\\'s there'")
    assert done.code == 0, done.err
    assert script("dev/kill_and_resume").compare(undisturbed / "7", tmp_path / "it's there") == []
    assert list((tmp_path / "here").iterdir()) == []


def log_in_many_ways():
    """Make the module log what is only known when an epoch ends."""
    init, step = Classifier.__init__, Classifier.training_step

    def with_metric(module, *args, **kwargs):
        init(module, *args, **kwargs)
        module.seen = MulticlassAccuracy(num_classes=10)

    def logging_step(module, batch, batch_idx):
        loss = step(module, batch, batch_idx)
        module.seen(module(batch[0]), batch[1])
        module.log("epoch/acc", module.seen, on_step=False, on_epoch=True)
        module.log("epoch/mean", loss, on_step=False, on_epoch=True)
        module.log("epoch/most", loss, on_step=False, on_epoch=True, reduce_fx="max")
        module.log("both", loss, on_step=True, on_epoch=True)
        return loss

    Classifier.__init__, Classifier.training_step = with_metric, logging_step


@pytest.mark.slow
@pytest.mark.parametrize("stop", [("on_train_batch_end", 2), ("on_validation_start", 1), ("on_train_epoch_end", 1)])
def test_what_an_epoch_comes_to_takes_in_the_steps_before_the_stop(tmp_path, stop):
    arguments = [*SHORT, "trainer.steps_per_execution=7", "test=false", "trainer.num_sanity_val_steps=0"]
    arguments += ["checkpoint.every_n_steps=6"]
    straight = run(tmp_path, "train", *arguments, f"hydra.run.dir={tmp_path}/a", prepare=log_in_many_ways)
    assert straight.code == 0, straight.err

    def logging_until_killed():
        log_in_many_ways()
        at(*stop)()

    killed = run(tmp_path, "train", *arguments, f"hydra.run.dir={tmp_path}/b", prepare=logging_until_killed)
    assert killed.code == -signal.SIGKILL
    resumed = run(tmp_path, "train", f"resume={tmp_path}/b", prepare=log_in_many_ways)
    assert resumed.code == 0, resumed.err
    torture = script("dev/kill_and_resume")
    assert torture.events(tmp_path / "b") == torture.events(tmp_path / "a")
    assert torture.metrics(tmp_path / "b") == torture.metrics(tmp_path / "a")
    assert {"epoch/acc", "epoch/mean", "epoch/most", "both_epoch"} <= torture.metrics(tmp_path / "b")["last"].keys()


@pytest.mark.slow
def test_the_resume_command_works_in_a_shell(tmp_path, monkeypatch):
    folder = tmp_path / "a 'strange',\n (very) =$name"
    arguments = [*SHORT, "test=false", f"paths.logs={tmp_path}/logs"]
    assert run(tmp_path, "train", *arguments, prepare=at("on_train_epoch_end")).code == -signal.SIGKILL
    next((tmp_path / "logs" / "train" / "runs").iterdir()).rename(folder)
    monkeypatch.setattr("sys.argv", ["python -m litlab train"])
    command = Run.open(folder).resume_command
    assert command.startswith("python -m litlab train resume=")
    done = subprocess.run(["bash", "-c", command.replace("python", sys.executable, 1)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert record(folder)["status"] == "done"


@pytest.mark.parametrize("stop", ["in a validation", "in the middle of an epoch", "in the test"])
def test_pictures_are_drawn_once(shown, tmp_path, stop):
    folder = tmp_path / "run"
    killed = run(tmp_path, "train", *SHOWN, f"hydra.run.dir={folder}", prepare=STOPS[stop])
    assert killed.code == -signal.SIGKILL, killed.err
    assert run(tmp_path, "train", f"resume={folder}").code == 0
    assert script("dev/kill_and_resume").compare(shown, folder) == []
