"""Shows in TensorBoard and in trackers what `run.json` says: what was set, what came of it, how the run was started."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from litlab.callbacks.trackers import finish, is_tracker
from litlab.distributed.signals import Interrupted
from litlab.runs.record import Record
from litlab.runs.record import Status as Ending
from litlab.runs.run import Run


class Overview(Callback):
    """Writes the HPARAMS, the text and the layout of the Custom Scalars tab.

    The HPARAMS are what was set for the run alone, and the seed; the values that came of it are curves `best/…`,
    written after each epoch and however the run ends, so that they are right of a run that was stopped, too. There is
    no description of an experiment: TensorBoard would take that of any run for all; so it gathers it from all runs.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._loggers: list[TensorBoardLogger] = []
        self._trackers: list[Logger] = []
        self._written: dict[str, float] = {}
        self._has_layout = False

    def state_dict(self) -> dict[str, Any]:
        """What is written already."""
        return {"written": self._written, "has_layout": self._has_layout}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` has kept."""
        self._written, self._has_layout = dict(state_dict["written"]), bool(state_dict["has_layout"])

    @contextmanager
    def closing(self) -> Iterator[None]:
        """When what happens inside has ended, write how, and close the files."""
        status = Status.STATUS_FAILURE
        ending: Ending = "failed"
        try:
            yield
            status, ending = Status.STATUS_SUCCESS, "done"
        except Interrupted:
            ending = "interrupted"
            raise
        finally:
            if self._loggers or self._trackers:
                self._write_results()
            for tracker in self._trackers:
                finish(tracker, ending)
            for logger in self._loggers:
                logger.experiment.add_text("run/results", _table(_results(self.run.record)), self._step)
                end = SessionEndInfo(status=status, end_time_secs=time.time())
                _add_hparams(logger, metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
                logger.experiment.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before; a run that goes on from a checkpoint has it already."""
        self._trainer = trainer
        self._loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        self._trackers = [logger for logger in trainer.loggers if is_tracker(logger)]
        if trainer.ckpt_path is not None:
            return
        record = self.run.record
        for tracker in self._trackers:
            tracker.log_hyperparams({**record.settings, "run": record.origin()})
        for logger in self._loggers:
            start = SessionStartInfo(start_time_secs=time.time())
            for name, value in hyperparameters(record).items():
                kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
                setattr(start.hparams[name], f"{kind}_value", value)
            _add_hparams(logger, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
            logger.experiment.add_text("run/command", _table(record.origin() | {"command": f"`{record.command}`"}), 0)
            config = yaml.safe_dump(record.settings, sort_keys=False)
            logger.experiment.add_text("run/config", "".join(f"    {line}\n" for line in config.splitlines()), 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is best so far; the first time, also which curves belong into one chart."""
        self._write_results()
        layout = chart_layout(trainer.callback_metrics)
        if layout and not self._has_layout:
            self._has_layout = True
            for logger in self._loggers:
                logger.experiment.add_custom_scalars(layout)

    @property
    def _step(self) -> int:
        return self._trainer.global_step

    def _write_results(self) -> None:
        results = best_values(self.run.record)
        new = {name: value for name, value in results.items() if self._written.get(name) != value}
        for logger in (*self._loggers, *self._trackers) if new else ():
            logger.log_metrics(new, step=self._step)
        self._written = results


def hyperparameters(record: Record) -> dict[str, str | int | float | bool]:
    """The seed, and what was set for this run alone: numbers, truths and words as such, all else as it was written."""
    found: dict[str, str | int | float | bool] = {"seed": record.seed}
    for key, text in record.overrides.items():
        value: Any = record.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found[key] = value if isinstance(value, str | int | float | bool) else text
    return found


def best_values(record: Record) -> dict[str, float]:
    """What the best weights came to, and when; their test, if there was one; the time of the training, in seconds."""
    metrics = record.metrics
    values: dict[str, float | None] = {
        "best/epoch": metrics.best_epoch,
        "best/training_seconds": record.training_seconds,
        **{f"best/{name.replace('/', '_')}": value for name, value in (metrics.best | metrics.test).items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def chart_layout(metrics: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """For Custom Scalars: training and validation in one chart, and all classes in one."""
    names = [name.removeprefix("train/") for name in metrics if name.startswith("train/")]
    charts = {
        name: ["Multiline", [f"^train/{name}$", f"^val/{name}$"]] for name in sorted(names) if f"val/{name}" in metrics
    }
    if charts:
        charts["accuracy of each class"] = ["Multiline", ["^val_class_acc/"]]
    return {"training and validation": charts} if charts else {}


def _results(record: Record) -> dict[str, Any]:
    metrics = record.metrics
    values = {**best_values(record), **metrics.last, **metrics.test}
    return {name: f"{value:.6g}" for name, value in values.items()}


def _table(rows: Mapping[str, Any]) -> str:
    """Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _add_hparams(logger: TensorBoardLogger, tag: str, content: HParamsPluginData) -> None:
    """Write what the HPARAMS tab reads; its own way to make this needs TensorFlow, PyTorch's an experiment."""
    content.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
    logger.experiment._get_file_writer().add_summary(Summary(value=[value]))
