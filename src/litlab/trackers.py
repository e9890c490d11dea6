"""Loggers of W&B and MLflow, with a run of theirs for each run of ours."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from litlab.errors import UserError
from litlab.runs.run import Run


def wandb(
    save_dir: str | Path,
    *,
    project: str,
    offline: bool = False,
    name: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    **others: Any,
) -> WandbLogger:
    """Lightning's logger for W&B, with the run's own W&B run; a sweep's jobs are a group.

    Args:
        save_dir: the run's folder.
        project: W&B's project.
        offline: whether nothing is sent, but kept in the run's folder for `wandb sync`.
        name: what the run is called; None for the name of its folder.
        tags: the run's.
        notes: the run's.
        others: further arguments of WandbLogger and of wandb.init.
    """
    _require("wandb")
    from wandb import Settings

    folder = Path(save_dir)
    going_on: dict[str, Any] = {} if offline else {"resume": "allow"}  # offline, W&B would warn that it cannot know
    return WandbLogger(
        name=name or folder.name, save_dir=folder, project=project, offline=offline, id=identity(folder),
        tags=list(tags), notes=notes, group=sweep_of(folder), settings=Settings(console="off"), **going_on, **others,
    )  # fmt: skip


def mlflow(
    save_dir: str | Path,
    *,
    experiment_name: str,
    tracking_uri: str | None,
    file: str,
    name: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    **others: Any,
) -> MLFlowLogger:
    """Lightning's logger for MLflow, with the run's own MLflow run; its tag `litlab.sweep` names the sweep.

    Args:
        save_dir: the run's folder.
        experiment_name: MLflow's experiment.
        tracking_uri: where MLflow keeps its runs; None for MLFLOW_TRACKING_URI, and without it for `file`.
        file: an SQLite file.
        name: what the run is called; None for the name of its folder.
        tags: the run's.
        notes: the run's.
        others: further arguments of MLFlowLogger.
    """
    _require("mlflow")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # or a server that is not there takes minutes
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    folder, own, uri = Path(save_dir), identity(Path(save_dir)), tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{file}"
        others = {"artifact_location": Path(file).with_name("mlartifacts").absolute().as_uri()} | others
    with FileLock(f"{file}.lock") if uri == f"sqlite:///{file}" else nullcontext():  # jobs may begin at once
        client = MlflowClient(uri)
        if client.get_experiment_by_name(experiment_name) is None:
            with suppress(MlflowException):  # another job has made it meanwhile
                client.create_experiment(experiment_name, others.get("artifact_location"))
        experiment = client.get_experiment_by_name(experiment_name)
    known = client.search_runs([experiment.experiment_id], f"tags.`litlab.run` = '{own}'") if experiment else []
    told = {"litlab.run": own, "litlab.sweep": sweep_of(folder), "mlflow.note.content": notes}
    logger = MLFlowLogger(
        experiment_name, name or folder.name, uri, run_id=known[0].info.run_id if known else None,
        tags={key: value for key, value in told.items() if value} | dict.fromkeys(tags, "true"), **others,
    )  # fmt: skip

    def log_image(key: str, images: Sequence[Any], step: int) -> None:
        for image in images:
            logger.experiment.log_image(logger.run_id, image, key=key.replace("/", "_"), step=step)

    logger.log_image = log_image  # type: ignore[attr-defined]  # as WandbLogger has it
    return logger


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"logger={package}: takes the package {package}; pip install -e '.[{package}]' brings it")


def identity(folder: Path) -> str:
    """Return what tells the run in a folder from all others, wherever the folder is and whatever it is called."""
    record = Run.open(folder).record
    return hashlib.sha256(f"{record.started.isoformat()} {record.seed} {record.command}".encode()).hexdigest()[:16]


def sweep_of(folder: Path) -> str | None:
    """Return the name of the sweep that a run is a job of."""
    return folder.parent.name if (folder.parent / "plan.json").exists() else None
