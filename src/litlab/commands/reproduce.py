"""`reproduce run=FOLDER`: run a run's config again, and say whether the results are the same."""

import sys

from litlab.commands.command import Command, Request
from litlab.commands.trained import open_run
from litlab.config.compose import load
from litlab.config.marks import require_mine
from litlab.config.schema import Paths, Train
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.files import read_text, write_text
from litlab.runs.run import refuse_taken

HELP = """\
reproduce: run a run's config again in a new folder, and say whether the results are the same.

  reproduce run=last                     the newest run
  reproduce run=logs/train/runs/TIME     this run

The exit code is 0 where weights and metrics are the same, bit for bit, otherwise 1.
"""


class Reproduce(Settings):
    """Everything that `reproduce` can be told."""

    run: str | int
    """Folder of the run, or `last` for the newest."""
    paths: Paths
    """Where things are."""


def run(request: Request[Reproduce]) -> None:
    """Train again in the request's folder; exit with code 1 if something else comes out."""
    asked = request.settings
    original = open_run(asked.run, asked.paths)
    if original.record.evaluated is not None:
        evaluated = f"is an evaluation, of {original.record.evaluated}"
        raise UserError(f"run={asked.run}: {evaluated}; only a training is reproduced")
    require_mine(original.folder / "config.yaml", f"run={asked.run}")
    settings = load(original.folder / "config.yaml", Train)
    if original.record.status != "done":
        status = original.record.status
        raise UserError(f"run={asked.run}: nothing to compare with, the run's status is {status}")
    original.best_checkpoint()  # which may be gone
    refuse_taken(request.folder)
    config = read_text(original.folder / "config.yaml")
    write_text(request.folder / "config.yaml", config)  # the folder is a training's, and can be resumed
    from litlab.training.reproduce import reproduce

    if not reproduce(original, settings, request.folder):
        sys.exit(1)


COMMAND = Command(Reproduce, HELP, run, leaves_run=True)
