"""The run that a command is to use: `run=FOLDER`, a checkpoint in it, or `run=last`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litlab.config.compose import load_trained
from litlab.config.schema import Paths, Train
from litlab.config.types import Settings
from litlab.console import say
from litlab.runs.last import newest_run
from litlab.runs.run import Run


class OfRun(Settings):
    """Settings of commands that compute with a run's model."""

    run: str | int
    """Folder of the run, a checkpoint in it, or `last` for the newest run; a multirun's folders are numbers."""
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
        path = run_path(asked, paths)
        run = Run.open(path)
        checkpoint = path.absolute() if path.suffix == ".ckpt" else run.best_checkpoint()
        return cls(run, checkpoint, load_trained(run.folder / "config.yaml", paths))


def run_path(asked: str | int, paths: Paths) -> Path:
    """Return where the run is that was asked for."""
    if asked != "last":
        return Path(str(asked)).expanduser()
    folder = newest_run(Path(paths.logs)).folder
    say(f"run=last: {folder}", sys.stderr)
    return folder
