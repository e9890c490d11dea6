import json
import os
import signal

import pytest
from conftest import SHORT, settings, train
from processes import at, run
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from litlab.callbacks.overview import hyperparameters

pytestmark = pytest.mark.usefixtures("mnist_dir")


class Written:
    """What TensorBoard reads in a run's folder."""

    def __init__(self, folder):
        self.record = json.loads((folder / "run.json").read_text())
        files = sorted(folder.glob("events.out.tfevents.*"))  # one, and one more for each time that the run went on
        events = [event for file in files for event in EventFileLoader(str(file)).Load()]
        values = [value for event in events for value in event.summary.value]
        kinds = [(value, value.metadata.plugin_data) for value in values]
        hparams = [HParamsPluginData.FromString(kind.content) for _, kind in kinds if kind.plugin_name == "hparams"]
        self.starts = [part.session_start_info for part in hparams if part.HasField("session_start_info")]
        self.ends = [part.session_end_info for part in hparams if part.HasField("session_end_info")]
        self.scalars = {value.tag: value.tensor.float_val[0] for value in values if value.tensor.float_val}
        strings = [(value.tag, value.tensor.string_val) for value in values if value.tensor.string_val]
        self.texts = {tag.removesuffix("/text_summary"): text[0] for tag, text in strings}

    @property
    def hparams(self):
        (start,) = self.starts
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}

    def assert_results_are_those_of_run_json(self):
        metrics = self.record["metrics"]
        expected = {"best/epoch": metrics["best_epoch"], "best/training_seconds": self.record["training_seconds"]}
        expected |= {f"best/{name.replace('/', '_')}": value for name, value in metrics["best"].items()}
        expected |= {f"best/{name.replace('/', '_')}": value for name, value in metrics["test"].items()}
        found = {name: value for name, value in self.scalars.items() if name.startswith("best/")}
        assert found == pytest.approx(expected)


def test_hparams_text_and_layout_say_what_run_json_says(tmp_path):
    folder = tmp_path / "run"
    ended = run(
        tmp_path, "train", *SHORT, "optimizer.lr=0.002", "model.net.channels=[4,8]", "optimizer=sgd",
        f"hydra.run.dir={folder}", f"paths.logs={tmp_path}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    written = Written(folder)
    assert written.hparams["seed"] == 42
    assert written.hparams["optimizer.lr"] == 0.002
    assert written.hparams["model.net.channels"] == "[4,8]"
    assert written.hparams["optimizer"] == "sgd"
    assert written.hparams["trainer.max_epochs"] == 1
    assert "hydra.run.dir" not in written.hparams
    written.assert_results_are_those_of_run_json()
    (end,) = written.ends
    assert end.status == Status.STATUS_SUCCESS

    text = written.texts["run/command"].decode()
    assert f"| command | `{written.record['command']}` |" in text
    assert written.record["git"]["commit"] in text
    assert "    lr: 0.002\n" in written.texts["run/config"].decode()
    assert (
        f"| test/acc | {written.record['metrics']['test']['test/acc']:.6g} |" in written.texts["run/results"].decode()
    )
    layout = Layout.FromString(written.texts["custom_scalars__config__"])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["loss"] == ["^train/loss$", "^val/loss$"]
    assert charts["acc"] == ["^train/acc$", "^val/acc$"]


def test_a_run_that_was_stopped_has_its_best_values_and_its_end_is_told_once(tmp_path):
    folder = tmp_path / "run"
    arguments = (*SHORT, "trainer.max_epochs=3", f"hydra.run.dir={folder}", f"paths.logs={tmp_path}")
    stop = at("on_train_batch_start", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))  # a batch an epoch calls it
    assert run(tmp_path, "train", *arguments, prepare=stop).code == 143
    written = Written(folder)
    assert written.record["metrics"]["best_epoch"] == 0
    assert written.hparams["trainer.max_epochs"] == 3
    written.assert_results_are_those_of_run_json()
    assert [end.status for end in written.ends] == [Status.STATUS_FAILURE]

    ended = run(tmp_path, "train", f"resume={folder}")
    assert ended.code == 0, ended.err
    written = Written(folder)
    assert written.record["metrics"]["best_epoch"] == 2
    written.assert_results_are_those_of_run_json()
    assert [end.status for end in written.ends] == [Status.STATUS_SUCCESS]
    assert written.hparams["trainer.max_epochs"] == 3


def test_jobs_of_a_sweep_have_what_they_were_given(tmp_path):
    arguments = ("-m", *SHORT, "optimizer.lr=0.001,0.01", "seed=1,2", f"paths.logs={tmp_path}")
    assert run(tmp_path, "train", *arguments).code == 0
    (sweep,) = (tmp_path / "train" / "multiruns").iterdir()
    jobs = [Written(sweep / str(number)) for number in range(4)]
    assert [job.hparams for job in jobs] == [
        {"optimizer.lr": rate, "seed": seed} for rate in (0.001, 0.01) for seed in (1, 2)
    ]
    for job in jobs:
        job.assert_results_are_those_of_run_json()


def test_what_was_set_keeps_its_kind(tmp_path):
    config = settings(*SHORT, "data.normalize=true", "trainer.max_time='00:01:00:00'", "seed=7")
    given = {"data.normalize": "true", "trainer.max_time": "'00:01:00:00'", "seed": "7", "callbacks": "[]"}
    record = train(config, tmp_path, given).record
    assert hyperparameters(record) == {
        "seed": 7, "data.normalize": True, "trainer.max_time": "00:01:00:00", "callbacks": "[]",
    }  # fmt: skip
