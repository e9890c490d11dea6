"""The log of a job that Hydra does not start itself."""

from functools import cache
from logging.config import dictConfig
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from litlab.project import CONFIGS


def log_into(folder: Path) -> None:
    """Log as a single run does, which Hydra sees to: to standard output, and to train.log in the run's folder."""
    hydra = {"job_logging": _logging(), "runtime": {"output_dir": str(folder)}, "job": {"name": "train"}}
    settings = OmegaConf.to_container(OmegaConf.create({"hydra": hydra}).hydra.job_logging, resolve=True)
    dictConfig(cast("dict[str, Any]", settings))


@cache
def _logging() -> Any:
    return OmegaConf.load(CONFIGS / "hydra" / "job_logging" / "litlab.yaml")
