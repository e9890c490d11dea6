"""`litlab rename run=RUN name=NAME`: give a run another name."""

import re
from pathlib import Path

from omegaconf import OmegaConf

from litlab.commands.command import Command, Request
from litlab.commands.trained import open_run
from litlab.config.compose import read, write_config
from litlab.config.marks import require_mine
from litlab.config.schema import Paths
from litlab.config.types import Name, Settings
from litlab.console import say
from litlab.errors import UserError
from litlab.files import TIME
from litlab.runs.last import remember

HELP = """\
rename: give a run another name.

  litlab rename run=last name=wider        the newest run is called wider from now on
  litlab rename run=wider name=null        that run has no name any more

The name is changed in run.json and config.yaml; a folder that is called by time and name is renamed, too.
"""


class Rename(Settings):
    """Everything that `litlab rename` can be told."""

    run: str | int
    """Folder of the run, its name by now, or `last` for the newest run."""
    name: Name | None
    """Its new name; null for none."""
    paths: Paths
    """Where things are."""


def run(request: Request[Rename]) -> None:
    """Rename the run, and its folder if that is named by time and name."""
    asked = request.settings
    renamed = open_run(asked.run, asked.paths)
    if not renamed.record.settings:
        raise UserError(f"run={asked.run}: {renamed.folder} has no settings, as it failed before it began")
    file = renamed.folder / "config.yaml"
    require_mine(file, f"run={renamed.folder}")
    folder = _folder(renamed.folder, asked.name)
    renamed.claim()
    config = read(file)
    OmegaConf.update(config, "name", asked.name, force_add=True)
    write_config(renamed.folder, config)
    renamed.record.settings["name"] = asked.name
    renamed.save()
    renamed.folder.rename(folder)
    remember(folder, Path(asked.paths.logs))
    say(f"{folder} is called {asked.name}" if asked.name else f"{folder} has no name")


def _folder(folder: Path, name: str | None) -> Path:
    """Return what the folder is called with the new name.

    Raises:
        UserError: there is such a folder already.
    """
    timed = re.match(rf"{TIME}(?=_|$)", folder.name)
    new = folder.with_name(timed[0] + (f"_{name}" if name else "")) if timed else folder
    if new != folder and new.exists():
        raise UserError(f"{new} is there already: choose another name")
    return new


COMMAND = Command(Rename, HELP, run)
