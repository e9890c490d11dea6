"""`litlab report run=RUN`: a run as one page for a browser."""

from litlab.commands.command import Command, Request
from litlab.commands.trained import open_run
from litlab.config.schema import Paths
from litlab.config.types import Settings
from litlab.console import say
from litlab.errors import UserError
from litlab.files import write_text

HELP = """\
report: a run as one page for a browser, with all that it takes inside.

  litlab report run=last          writes report.html into the run's folder
  litlab report run=wider         of the newest run of that name

It shows results, curves, the confusion matrix and the other pictures, config, command and versions.
"""


class Report(Settings):
    """Everything that `litlab report` can be told."""

    run: str | int
    """Folder of the run, the name of a run, or `last` for the newest run."""
    paths: Paths
    """Where things are."""


def run(request: Request[Report]) -> None:
    """Write the page."""
    asked = request.settings
    shown = open_run(asked.run, asked.paths)
    try:
        from litlab.comparison.run_page import run_page
    except ModuleNotFoundError as error:
        raise UserError(f"report: takes {error.name}; pip install -e '.[report]' brings it") from error
    file = shown.folder / "report.html"
    write_text(file, run_page(shown))
    say(str(file))


COMMAND = Command(Report, HELP, run)
