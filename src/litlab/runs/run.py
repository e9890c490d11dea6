"""A run is its folder: `config.yaml`, `run.json`, the checkpoints, the curves and the log."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

from pydantic import (
    ValidationError,
)

from litlab.distributed.signals import Interrupted
from litlab.errors import ProcessLost, Pruned, StorageError, UserError
from litlab.files import read_text, write_text
from litlab.messages import first_problem, is_text, shell_quoted
from litlab.project import SOURCE
from litlab.runs.lock import FolderLock
from litlab.runs.record import CheckpointName, Git, Record, Resumption, Status

if TYPE_CHECKING:
    from torch import nn

PYTHON = sys.version.partition(" ")[0]

PACKAGES = ("litlab", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy")


class Run:
    """A run's folder and its record, which is on disk whenever `save` returns.

    Attributes:
        is_resumed: whether it was begun by an earlier process and goes on here.
    """

    def __init__(self, folder: Path, record: Record, is_resumed: bool = False) -> None:
        self.folder = folder
        self.record = record
        self.is_resumed = is_resumed
        self._changed_config: str | None = None
        self._lock = FolderLock(folder)

    @classmethod
    def create(cls, folder: Path, seed: int, overrides: Mapping[str, str] | None = None) -> Self:
        """Begin a run in `folder`, which exists.

        Args:
            folder: where the run leaves everything.
            seed: the run's seed.
            overrides: the settings of this run alone, as they were typed, by their keys.

        Raises:
            UserError: the folder holds a run already.
        """
        record = Record(
            command=" ".join([Path(sys.argv[0]).name, *map(shell_quoted, sys.argv[1:])]),
            started=datetime.now(UTC),
            seed=seed,
            overrides=dict(overrides or {}),
            git=_git(),
            python=PYTHON,
            versions=_versions(),
        )
        run = cls(folder, record)
        refuse_taken(folder)
        run.claim()
        try:
            refuse_taken(folder)
            run.save()
        except BaseException as error:
            if isinstance(error, Interrupted):
                run.end("interrupted", str(error))
            run._lock.release()
            raise
        return run

    @classmethod
    def reopen(cls, folder: Path, overrides: Mapping[str, str] | None = None, config: str | None = None) -> Self:
        """Open the run in `folder` to resume it.

        Args:
            folder: the run's.
            overrides: settings that are changed now, as they were typed, by their keys.
            config: what config.yaml is to hold once the run has been resumed; None leaves it as it is.

        Raises:
            UserError: there is no run, or another process is at work on it.
        """
        run = cls.open(folder, "resume")
        run.claim()
        run.is_resumed, run._changed_config = True, config
        run.record.overrides |= overrides or {}
        return run

    def resume(self, step: int) -> None:
        """Record that the run goes on after this step."""
        record = self.record
        record.status, record.reason, record.ended = "running", None, None
        record.resumed.append(Resumption(at=datetime.now(UTC), step=step))
        self.save()
        if self._changed_config is not None:
            write_text(self.folder / "config.yaml", self._changed_config)

    def other_versions(self) -> dict[str, tuple[str, str]]:
        """Python and packages that have another version now than when the run began, and both."""
        began, now = {"python": self.record.python, **self.record.versions}, {"python": PYTHON, **_versions()}
        return {name: (began[name], now[name]) for name in now if began.get(name, now[name]) != now[name]}

    @property
    def resume_command(self) -> str:
        """What to type to go on with this run."""
        return resume_command(self.folder)

    @classmethod
    def open(cls, path: Path, name: str = "run") -> Self:
        """The run in a folder; `path`, which the user knows as `name`, may also be a file in it, such as a checkpoint.

        Raises:
            UserError: there is no run there, or its record is damaged.
        """
        place = path.absolute()
        try:
            if not place.exists():
                raise UserError(f"{name}={path}: there is no such file, folder or name of a run")
            folder = next((one for one in (place, *place.parents[:2]) if os.path.lexists(one / "run.json")), None)
            if folder is None:
                raise UserError(f"{name}={path}: not a run's folder; it holds no run.json")
            return cls(folder, Record.model_validate_json(read_text(folder / "run.json")))
        except ValidationError as error:
            raise UserError(f"{name}={path}: its run.json is damaged: {first_problem(error)}") from error
        except ValueError as error:
            raise UserError(f"{name}={path}: its run.json is damaged: {error}") from error
        except OSError as error:
            raise UserError(f"{name}={path} cannot be read: {error.strerror}") from error

    def best_checkpoint(self) -> Path:
        """The best weights, or the last ones where nothing was monitored.

        Raises:
            UserError: the run was stopped before its first checkpoint.
        """
        saved = self._checkpoints()
        if not saved:
            raise UserError(f"{self.folder} has no checkpoint; the run's status is {self.record.status}")
        if "best" in self.record.checkpoints and "best" not in saved:
            raise UserError(f"{self.folder} no longer has its best checkpoint; give the path of another")
        return self.folder / (saved.get("best") or saved["last"])

    @cached_property
    def model(self) -> "nn.Module":
        """The network with the best weights, in eval mode on the CPU; it takes neither Hydra nor lightning.

        Raises:
            UserError: the run has no checkpoint, or its model no network of its own.
        """
        from litlab.runs.network import network  # torch takes seconds

        return network(self.folder / "config.yaml", self.best_checkpoint())

    @property
    def last_checkpoint(self) -> Path:
        """Where the training goes on; not there before the first is written."""
        return self.folder / "checkpoints" / "last.ckpt"

    def has_saved(self) -> bool:
        """Whether there is, or was, a checkpoint to go on from."""
        return os.path.lexists(self.last_checkpoint) or "last" in self.record.checkpoints

    def claim(self) -> None:
        """Keep other processes from writing the run.

        Raises:
            UserError: another one does, or the folder cannot be written.
        """
        try:
            is_free = self._lock.acquire()
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror}") from error
        if not is_free:
            raise UserError(f"{self.folder} is in use: another process is at work on this run")

    def is_alive(self) -> bool:
        """Whether a process is at work on the run."""
        return self._lock.is_held()

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
        """Record how what happens inside ends, and when; then let go of the run."""
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # of a folder that has vanished, say: the first error counts
                if isinstance(error, Interrupted | ProcessLost | StorageError | Pruned):
                    reason = error.problem if isinstance(error, StorageError) else str(error)
                    self.end("pruned" if isinstance(error, Pruned) else "interrupted", reason)
                elif self.record.status == "running":  # and not one that could not even go on
                    self.end("failed", f"{type(error).__name__}: {error}")
            raise
        else:
            self.end("done", self.record.reason)
        finally:
            self._lock.release()

    def end(self, status: Status, reason: str | None = None) -> None:
        """Record how the run has ended, now."""
        self.record.status, self.record.reason, self.record.ended = status, reason, datetime.now(UTC)
        self.save()


def resume_command(folder: Path, multirun: bool = False) -> str:
    """What to type to go on with the run, or the multirun, in this folder."""
    return f"{train_command()} {'-m ' if multirun else ''}resume={_typed(str(folder))}"


def train_command() -> str:
    """What to type to train, in the way in which this program was started."""
    if sys.argv[0].startswith("python -m litlab"):
        return "python -m litlab train"
    beside = Path(sys.argv[0]).with_name("train")
    return shell_quoted(str(beside)) if beside.is_file() and not shutil.which("train") else "train"


def _typed(value: str) -> str:
    """A value as it is typed: Hydra's grammar reads some characters as its own unless they are quoted; so do shells."""
    if re.fullmatch(r"[\w./:+-]+", value, re.ASCII):
        return value
    # A backslash escapes OmegaConf's `${` and Hydra's quote; those before one, or at the end, are doubled.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    escaped = re.sub(r'(\\*)("|\Z)', lambda end: end[1] * 2 + ('\\"' if end[2] else ""), literal)
    return shell_quoted(f'"{escaped}"')


def refuse_taken(folder: Path) -> None:
    """Make sure that nothing of another run is overwritten.

    Raises:
        UserError: the folder holds a run already, or no record could name it.
    """
    if not is_text(str(folder)):
        raise UserError(f"{folder}: cannot be read as {sys.getfilesystemencoding()}; choose another folder")
    if (folder / "run.json").exists():
        raise UserError(f"{folder} holds a run already: choose another folder")


def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def _git() -> Git | None:
    def git(*arguments: str) -> str:
        # Without the lock that `git status` takes, at which a user's own git would stumble.
        command = ["git", "--no-optional-locks", "-C", str(SOURCE.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return Git(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return None
