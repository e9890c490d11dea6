"""Runs in W&B and MLflow, read back by their own records and client."""

import csv
import json
import os
import signal

import pytest
from conftest import ROOT
from processes import at, run

import litlab.trackers
from litlab.runs.run import Run

wandb = pytest.importorskip("wandb", reason="wandb is not installed")
pytest.importorskip("mlflow", reason="mlflow is not installed")

from lightning.pytorch.loggers import MLFlowLogger, WandbLogger  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from wandb_file import OfflineRun  # noqa: E402

pytestmark = pytest.mark.usefixtures("mnist_dir")

SMALL = (
    "trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=20", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1", "trainer.log_every_n_steps=5", "data.batch_size=10", "views=[confusion,filters]",
)  # fmt: skip
BOTH = ("logger=[csv,wandb,mlflow]", "logger.wandb.offline=true")


def train(folder, *arguments, loggers=BOTH, **options):
    return run(folder, "train", *SMALL, *loggers, f"paths.logs={folder}/logs", *arguments, **options)


def only_run(folder):
    (found,) = (folder / "logs/train/runs").iterdir()
    return found


def mlflow_runs(folder):
    client = MlflowClient(f"sqlite:///{folder}/logs/mlflow.db")
    experiment = client.get_experiment_by_name("litlab")
    return client, client.search_runs([experiment.experiment_id])


def mlflow_steps(folder, name):
    client, (tracked,) = mlflow_runs(folder)
    return [point.step for point in client.get_metric_history(tracked.info.run_id, name)]


def csv_steps(folder, name):
    with (only_run(folder) / "csv" / "metrics.csv").open() as stream:
        return [int(row["step"]) for row in csv.DictReader(stream) if row[name]]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked")
    done = train(folder, "name=wide", "tags=[ablation,lr]", "notes=why", "optimizer.lr=0.002")
    assert done.code == 0, done.err
    return folder


def test_each_tracker_has_what_tensorboard_has(tracked):
    folder = only_run(tracked)
    record = Run.open(folder).record
    theirs = OfflineRun(folder)
    assert (theirs.run.display_name, list(theirs.run.tags), theirs.run.notes) == ("wide", ["ablation", "lr"], "why")
    assert (theirs.run.project, theirs.run.run_group, theirs.exit_codes) == ("litlab", "", [0])
    assert json.loads(theirs.config["optimizer"])["lr"] == 0.002
    assert json.loads(theirs.config["run"])["command"].startswith("python -m litlab train ")
    assert theirs.steps("train/loss") == csv_steps(tracked, "train/loss")
    assert theirs.steps("val/confusion._type")
    assert theirs.steps("filters._type") == [0, 20, 40]
    client, (ours,) = mlflow_runs(tracked)
    assert (ours.info.run_name, ours.info.status) == ("wide", "FINISHED")
    assert ours.data.params["optimizer/lr"] == "0.002"
    assert {"ablation", "lr"} <= ours.data.tags.keys()
    assert ours.data.tags["mlflow.note.content"] == "why"
    assert mlflow_steps(tracked, "train/loss") == csv_steps(tracked, "train/loss")
    pictures = {file.path.split("/")[1].partition("+")[0] for file in client.list_artifacts(ours.info.run_id, "images")}
    assert {"filters", "val_confusion", "test_confusion"} <= pictures
    for of_theirs in (
        ours.data.metrics, {key: value for row in theirs.history for key, value in row.items()}
    ):  # fmt: skip
        assert of_theirs["best/val_acc"] == pytest.approx(record.metrics.best["val/acc"])
        assert of_theirs["test/acc"] == pytest.approx(record.metrics.test["test/acc"])
    assert not (tracked / "mlruns").exists()
    assert not (ROOT / "mlruns").exists()


def test_a_sweeps_jobs_are_runs_of_their_own(tmp_path):
    done = train(tmp_path, "-m", "optimizer.lr=0.001,0.002", "test=false")
    assert done.code == 0, done.err
    (sweep,) = (tmp_path / "logs/train/multiruns").iterdir()
    theirs = [OfflineRun(sweep / job) for job in "01"]
    assert len(theirs[0].ids | theirs[1].ids) == 2
    assert {one.run.run_group for one in theirs} == {sweep.name}
    assert [json.loads(one.config["optimizer"])["lr"] for one in theirs] == [0.001, 0.002]
    _, ours = mlflow_runs(tmp_path)
    assert {one.data.tags["litlab.sweep"] for one in ours} == {sweep.name}
    assert {one.data.params["optimizer/lr"] for one in ours} == {"0.001", "0.002"}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_goes_on_in_the_same_one_and_sends_no_step_twice(tmp_path, number):
    stop = at("on_train_batch_end", 27, lambda: os.kill(os.getpid(), number))
    stopped = train(tmp_path, "trainer.steps_per_execution=1", "checkpoint.every_n_steps=7", prepare=stop)
    assert stopped.code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    resumed = run(tmp_path, "train", f"resume={only_run(tmp_path)}")
    assert resumed.code == 0, resumed.err
    theirs, all_steps = OfflineRun(only_run(tmp_path)), csv_steps(tmp_path, "train/loss")
    assert (len(theirs.files), len(theirs.ids)) == (2, 1)
    for name in ("wandb", "mlflow"):
        assert json.loads((only_run(tmp_path) / f"sent_{name}.json").read_text())["train/loss"] == all_steps[-1]
    assert mlflow_steps(tmp_path, "train/loss") == all_steps
    # What W&B keeps in memory for a file of its own is gone with a process that was killed.
    lost = 0 if number == signal.SIGTERM else all_steps.index(theirs.steps("train/loss")[0])
    assert theirs.steps("train/loss") == all_steps[lost:]


@pytest.mark.parametrize("kind", [WandbLogger, MLFlowLogger])
def test_one_that_fails_ends_no_training(tmp_path, kind):
    def fail():
        send, sent = kind.log_metrics, []

        def log_metrics(logger, metrics, step=None):
            sent.append(step)
            if len(sent) == 3:
                raise ConnectionError("the server is gone")
            return send(logger, metrics, step)

        kind.log_metrics = log_metrics

    done = train(tmp_path, "trainer.max_epochs=1", prepare=fail)
    assert done.code == 0, done.err
    name = "wandb" if kind is WandbLogger else "mlflow"
    assert f"logger.{name}: ConnectionError: the server is gone" in done.out + done.err
    assert f"logger.{name} has failed, and lacks a part of this run" in done.out + done.err
    assert Run.open(only_run(tmp_path)).record.status == "done"


def test_a_missing_package_is_told_with_what_brings_it(tmp_path):
    def hide():
        litlab.trackers.find_spec = lambda name: None

    done = train(tmp_path, loggers=["logger=wandb"], prepare=hide)
    assert done.code == 2
    assert "train: logger=wandb: takes the package wandb; pip install -e '.[wandb]' brings it\n" in done.err


def test_one_that_cannot_be_reached_is_told_before_the_training(tmp_path):
    done = train(tmp_path, loggers=["logger=mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9"])
    assert done.code == 2
    (line,) = (line for line in done.err.splitlines() if line.startswith("train: "))
    assert "logger.mlflow" in line


@pytest.mark.parametrize(
    "secret",
    [
        "+logger.wandb.api_key=abcdef",
        "+logger.wandb.settings={api_key: abcdef}",
        "logger.mlflow.tracking_uri=https://me:pass@example.org",
    ],
)
def test_a_secret_reaches_no_file(tmp_path, secret):
    done = train(tmp_path, secret)
    assert done.code == 2
    assert "a secret would be written into the run's folder" in done.err
    assert not (tmp_path / "logs").exists()
