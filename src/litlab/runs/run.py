"""A run is its folder: `config.yaml`, `run.json`, the checkpoints, the curves and the log."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from litlab.errors import UserError
from litlab.project import SOURCE
from litlab.runs.files import write_text

PACKAGES = ("litlab", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy")

CheckpointName = Literal["best", "last"]


class Part(BaseModel):
    """Base of what `run.json` holds."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Git(Part):
    """The state of the source code."""

    commit: str
    dirty: bool
    """Whether files differed from the commit."""


class Metrics(Part):
    """What was measured, by the names it was logged under."""

    monitor: str | None = None
    """The metric that says which epoch is best."""
    last: dict[str, float] = {}
    """When training ended; of `train/…`, the last step's."""
    best: dict[str, float] = {}
    """When `monitor` was best."""
    best_epoch: int | None = None
    """The epoch of that, from 0."""
    test: dict[str, float] = {}
    """Of the best weights, on the test set."""


class Record(Part):
    """What `run.json` says."""

    command: str
    status: Literal["running", "done", "failed"] = "running"
    reason: str | None = None
    """Why the run failed."""
    started: datetime
    ended: datetime | None = None
    seed: int
    device: str | None = None
    training_seconds: float | None = None
    """From the first step to the last, without validation and test."""
    images_per_second: float | None = None
    """In that time."""
    metrics: Metrics = Metrics()
    checkpoints: dict[CheckpointName, str] = {}
    """Paths inside the run's folder."""
    evaluated: str | None = None
    """The checkpoint that `evaluate` took."""
    git: Git | None = None
    """None where the source is not in a git repository."""
    python: str
    versions: dict[str, str]


class Run:
    """A run's folder and its record, which is on disk whenever `save` returns."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record

    @classmethod
    def create(cls, folder: Path, seed: int) -> Self:
        """The run that starts now, in `folder`, which exists.

        Raises:
            UserError: the folder holds a run already.
        """
        refuse_taken(folder)
        record = Record(
            command=" ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])]),
            started=datetime.now(UTC),
            seed=seed,
            git=_git(),
            python=sys.version.partition(" ")[0],
            versions={package: version(package) for package in PACKAGES},
        )
        run = cls(folder, record)
        run.save()
        return run

    @property
    def objective(self) -> float | None:
        """The best value of the monitored metric; None where nothing was monitored or validated."""
        metrics = self.record.metrics
        return metrics.best.get(metrics.monitor) if metrics.monitor else None

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run in a folder; `path` may also be a file in it, such as a checkpoint.

        Raises:
            UserError: there is no run there, or its record is damaged.
        """
        place = path.absolute()
        try:
            if not place.exists():
                raise UserError(f"run={path}: there is no such file or folder")
            folder = next((folder for folder in (place, *place.parents[:2]) if (folder / "run.json").is_file()), None)
            if folder is None:
                raise UserError(f"run={path}: no run's folder, it holds no run.json")
            return cls(folder, Record.model_validate_json((folder / "run.json").read_text(encoding="utf-8")))
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"run={path}: its run.json is damaged") from error
        except OSError as error:
            raise UserError(f"run={path} cannot be read: {error.strerror}") from error

    def best_checkpoint(self) -> Path:
        """The best weights, or the last ones where nothing was monitored.

        Raises:
            UserError: the run was stopped before its first checkpoint.
        """
        saved = self._checkpoints()
        if not saved:
            raise UserError(f"{self.folder} has no checkpoint; the run's status is {self.record.status}")
        return self.folder / (saved.get("best") or saved["last"])

    def _checkpoints(self) -> dict[CheckpointName, str]:
        names: tuple[CheckpointName, ...] = get_args(CheckpointName)
        files = {name: f"checkpoints/{name}.ckpt" for name in names}
        return {name: file for name, file in files.items() if (self.folder / file).is_file()}

    def save(self) -> None:
        """Write the record."""
        self.record.checkpoints = self._checkpoints()
        write_text(self.folder / "run.json", self.record.model_dump_json(indent=2) + "\n")

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Record how what happens inside ends, and when."""
        try:
            yield
            self.record.status = "done"
        except BaseException as error:
            self.record.status = "failed"
            self.record.reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.record.ended = datetime.now(UTC)
            self.save()


def refuse_taken(folder: Path) -> None:
    """Make sure that nothing of another run is overwritten.

    Raises:
        UserError: the folder holds a run already.
    """
    if (folder / "run.json").exists():
        raise UserError(f"{folder} holds a run already: choose another folder")


def newest_run(logs: Path) -> Path:
    """The folder of the training that was started last, alone or in a multirun.

    Raises:
        UserError: there is none.
    """
    files = (*logs.glob("train/runs/*/run.json"), *logs.glob("train/multiruns/*/*/run.json"))
    if not files:
        raise UserError(f"there is no run in {logs / 'train'} yet")
    return max((Run.open(file) for file in files), key=lambda run: run.record.started).folder


def _git() -> Git | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(SOURCE.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return Git(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return None
