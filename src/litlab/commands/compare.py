"""`compare FOLDER… [where='optimizer.lr<0.01']`: runs side by side, grouped by their settings without the seed."""

from pathlib import Path
from typing import Literal

from litlab.commands.command import Command, Request
from litlab.config.command_line import of_compare
from litlab.config.schema import Paths
from litlab.config.types import Settings
from litlab.console import require_written

HELP = """\
compare: runs side by side, grouped by their settings without the seed, the best first.

  compare logs/train/runs                              all single runs
  compare logs/train/multiruns/TIME                    a sweep
  compare A B C format=csv                             several folders; or json, markdown
  compare … metric=test/loss mode=min                  by another metric, less of it is better
  compare … where='optimizer.lr<0.01 and seed!=3'      only these; also by metric and status
  compare … metric=val/acc,val/loss over=data.fold     several metrics; what else than the seed is averaged over
  compare … columns=optimizer.lr,name                  show these settings
  compare … format=html > page.html                    a page for a browser, with all that it takes inside
  compare … pictures=FOLDER                            draw what the metric depends on
"""


class Compare(Settings):
    """Everything that `compare` can be told."""

    folders: list[str]
    """Runs', sweeps', or what holds such, at any depth."""
    format: Literal["table", "json", "csv", "markdown", "html"]
    """What is printed: a table for people, all digits as JSON or CSV, a table for a Markdown page, or a page."""
    metric: str | list[str] | None
    """What the runs are compared by, and what else is shown; null for what they monitor."""
    mode: Literal["min", "max"] | None
    """Whether less or more of it is better; null for what the runs say of the monitored metric."""
    where: str | None
    """Conditions on the runs, such as 'optimizer.lr<0.01 and status==done'; null for all."""
    over: list[str]
    """Settings that are averaged over: runs that differ in nothing else are a group."""
    columns: list[str] | None
    """Settings that are shown, such as optimizer.lr; null for all in which the groups differ."""
    pictures: str | None
    """Folder for pictures of it; null for none."""
    paths: Paths
    """Where things are."""


def run(request: Request[Compare]) -> None:
    """Print the comparison, and draw it if asked to."""
    asked = request.settings
    from litlab.comparison.compare import compare, report

    folders = [Path(folder).expanduser() for folder in asked.folders]
    comparison = compare(folders, asked.metric, asked.mode, asked.where, asked.over, asked.columns)
    report(comparison, asked.format, Path(asked.pictures).expanduser() if asked.pictures else None)
    require_written()


COMMAND = Command(Compare, HELP, run, rewrite=of_compare)
