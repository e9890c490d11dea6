"""The run that a command is to use: `run=FOLDER`, a checkpoint in it, `run=NAME` or `run=last`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litlab.config.compose import load_trained
from litlab.config.schema import Paths, Train
from litlab.config.types import Settings
from litlab.console import say
from litlab.runs.last import run_path
from litlab.runs.run import Run


class OfRun(Settings):
    """Settings of commands that compute with a run's model."""

    run: str | int
    """Folder of the run, a checkpoint in it, the name of a run, or `last`; a multirun's folders are numbers."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] | None
    """Kind of device; null for the one of the training."""
    paths: Paths
    """Where things are."""


@dataclass(frozen=True)
class Trained:
    """A run, the checkpoint of it that was asked for, or its best one, and the run's settings."""

    run: Run
    checkpoint: Path
    settings: Train

    @classmethod
    def find(cls, asked: str | int, paths: Paths) -> "Trained":
        """Find the run that was asked for.

        Raises:
            UserError: there is no such run, or it has no such checkpoint.
        """
        path = path_of(asked, paths)
        run = Run.open(path)
        checkpoint = path.absolute() if path.suffix == ".ckpt" else run.best_checkpoint()
        return cls(run, checkpoint, load_trained(run.folder / "config.yaml", paths))


def path_of(asked: str | int, paths: Paths) -> Path:
    """Return where the run is that was asked for; says so unless that was a path."""
    path = run_path(asked, Path(paths.logs))
    if path != Path(str(asked)).expanduser():
        say(f"run={asked}: {path}", sys.stderr)
    return path
