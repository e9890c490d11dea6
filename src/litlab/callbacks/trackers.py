"""Trackers such as W&B and MLflow, on which no training depends."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from litlab.callbacks.guard import Guard
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.runs.record import Status

log = logging.getLogger(__name__)

GUARDS: "WeakKeyDictionary[Logger, Guard]" = WeakKeyDictionary()
"""The guard of each tracker, which knows whether it has failed."""

METHODS = (
    "log_metrics",
    "log_hyperparams",
    "log_image",
    "log_text",
    "log_graph",
    "after_save_checkpoint",
    "save",
    "finalize",
)
"""Methods of a logger that Lightning and the lab call."""


def is_tracker(logger: Logger) -> bool:
    """Whether a logger writes elsewhere than into the run's folder alone."""
    return not isinstance(logger, TensorBoardLogger | CSVLogger)


def guarded_tracker(name: str, logger: Logger, folder: Path) -> Logger:
    """Return a tracker whose errors are one warning, and which logs no metric of a step twice.

    Args:
        name: the logger's key in the config.
        logger: the tracker.
        folder: the run's folder, where `sent_NAME.json` keeps the last step of each metric.

    Raises:
        UserError: the tracker cannot be reached.
    """
    try:
        _ = getattr(logger, "experiment", None)
    except Exception as error:
        raise UserError(f"logger.{name}: {type(logger).__name__} cannot be reached: {first_lines(error)}") from error
    guard = GUARDS[logger] = Guard(f"logger.{name}")
    for method in METHODS:
        if hasattr(logger, method):
            setattr(logger, method, guard.wrap(method, getattr(logger, method)))
    sent = folder / f"sent_{name}.json"
    logger.log_metrics = _log_once(logger.log_metrics, sent)  # type: ignore[method-assign]
    return logger


def _log_once(log_metrics: Callable[..., None], file: Path) -> Callable[..., None]:
    """Return a `log_metrics` that leaves out what was logged before the run was stopped, as the file says."""
    sent: dict[str, int] = {}
    with suppress(OSError, ValueError):
        sent = json.loads(file.read_text(encoding="utf-8"))

    def log_new_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
        new = {key: value for key, value in metrics.items() if step is None or step > sent.get(key, -1)}
        if not new:
            return
        log_metrics(new, step)
        if step is not None:
            sent.update(dict.fromkeys(new, step))
            aside = file.with_suffix(".new")  # A process that is killed must not leave half a file behind.
            aside.write_text(json.dumps(sent), encoding="utf-8")
            aside.replace(file)

    return log_new_metrics


def log_picture(logger: Logger, key: str, picture: np.ndarray, step: int) -> None:
    """Log a picture (height, width, channels) to a tracker that has a `log_image`."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=key, images=[picture], step=step)


def finish(logger: Logger, status: Status) -> None:
    """Tell a tracker how the run has ended, so that the next run in this process begins another one there."""
    guard = GUARDS[logger]
    try:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=0 if status == "done" else 1)
        elif isinstance(logger, MLFlowLogger):
            terms = {"done": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
            logger.experiment.set_terminated(logger.run_id, terms.get(status, "FAILED"))
    except Exception as error:
        guard.failed = True
        log.warning("%s: %s: %s", guard.name, type(error).__name__, first_lines(error))
    if guard.failed:
        log.warning("%s has failed, and lacks a part of this run; the run's folder has all", guard.name)
