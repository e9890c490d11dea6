"""What the log of a job holds besides what Hydra sees to."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from logging.config import dictConfig
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from litlab.errors import ProcessLost, StorageError, TrainingError, UserError
from litlab.project import CONFIGS


def log_into(folder: Path) -> None:
    """Log as a single run does, which Hydra sees to: to standard output, and to train.log in the run's folder."""
    hydra = {"job_logging": _logging(), "runtime": {"output_dir": str(folder)}, "job": {"name": "train"}}
    settings = OmegaConf.to_container(OmegaConf.create({"hydra": hydra}).hydra.job_logging, resolve=True)
    dictConfig(cast("dict[str, Any]", settings))


@cache
def _logging() -> Any:
    return OmegaConf.load(CONFIGS / "hydra" / "job_logging" / "litlab.yaml")


@contextmanager
def keeping_error() -> Iterator[None]:
    """Write the error that ends a run into its log file; the terminal gets it from whoever handles the error."""
    try:
        yield
    except StorageError:  # the file could not be written either
        raise
    except Exception as error:
        says_all = isinstance(error, UserError | TrainingError | ProcessLost)
        trace = None if says_all else (type(error), error, error.__traceback__)
        text = str(error) if says_all else "the training has failed"
        record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, trace)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        raise
