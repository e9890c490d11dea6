"""Trackers such as W&B and MLflow: what a run tells them, so that it does not depend on them."""

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

SENT = "sent.json"
"""File in a run's folder: the last step of each metric that a tracker has, by tracker and metric."""

GUARDS: "WeakKeyDictionary[Logger, Guard]" = WeakKeyDictionary()
"""Whether each tracker has failed."""

CALLS = (
    "log_metrics",
    "log_hyperparams",
    "log_image",
    "log_text",
    "log_graph",
    "after_save_checkpoint",
    "save",
    "finalize",
)
"""What Lightning and the lab ask of a tracker."""


def is_tracker(logger: Logger) -> bool:
    """Whether a logger writes elsewhere than into the run's folder alone."""
    return not isinstance(logger, TensorBoardLogger | CSVLogger)


def watched(name: str, logger: Logger, folder: Path) -> Logger:
    """Return a tracker's logger so that an error of it is one warning, and no step is sent twice.

    Args:
        name: the logger's key in the config.
        logger: what sends.
        folder: the run's.

    Raises:
        UserError: the tracker cannot be reached.
    """
    try:
        _ = getattr(logger, "experiment", None)
    except Exception as error:
        raise UserError(f"logger.{name}: {type(logger).__name__} cannot be reached: {first_lines(error)}") from error
    guard = GUARDS[logger] = Guard(f"logger.{name}")
    for call in CALLS:
        if hasattr(logger, call):
            setattr(logger, call, guard.wrap(call, getattr(logger, call)))
    logger.log_metrics = _new_ones(name, logger.log_metrics, folder / SENT)  # type: ignore[method-assign]
    return logger


def _new_ones(name: str, send: Callable[..., None], file: Path) -> Callable[..., None]:
    """What sends those metrics alone that have not been sent before the run was stopped."""
    everything: dict[str, dict[str, int]] = {}
    with suppress(OSError, ValueError):
        everything = json.loads(file.read_text(encoding="utf-8"))
    sent = everything.setdefault(name, {})

    def log_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
        new = {key: value for key, value in metrics.items() if step is None or step > sent.get(key, -1)}
        if not new:
            return
        send(new, step)
        if step is not None:
            sent.update(dict.fromkeys(new, step))
            file.write_text(json.dumps(everything), encoding="utf-8")

    return log_metrics


def show(logger: Logger, key: str, picture: np.ndarray, step: int) -> None:
    """Send a picture (height, width, colours) to a tracker that takes such."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=key, images=[picture], step=step)


def close(logger: Logger, status: Status) -> None:
    """Tell a tracker how the run has ended, so that the next one in this process has one of its own."""
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
