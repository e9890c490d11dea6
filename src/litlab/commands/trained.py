"""The run that a command is to use: `run=FOLDER`, a checkpoint in it, `run=NAME` or `run=last`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litlab.config.compose import load_trained
from litlab.config.schema import Paths, Train
from litlab.config.types import Settings
from litlab.runs.last import announce, run_path
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
        run, path = open_run(asked, paths), Path(str(asked)).expanduser()
        checkpoint = path.absolute() if path.suffix == ".ckpt" and path.exists() else run.best_checkpoint()
        return cls(run, checkpoint, load_trained(run.folder / "config.yaml", paths))


def open_run(asked: str | int, paths: Paths) -> Run:
    """Open the run that `run=` asks for by its path, its name or `last`.

    Raises:
        UserError: there is no such run, or its record is damaged.
    """
    run = Run.open(run_path(asked, Path(paths.logs)))
    announce("run", asked, run.folder)
    return run
