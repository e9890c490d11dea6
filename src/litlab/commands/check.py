"""`check [OVERRIDES]`: is one's own data and module right, exact, fast and safe?"""

import sys
from typing import Literal

from litlab.commands.command import Command, Request
from litlab.config.command_line import of_check
from litlab.config.command_schema import TrainCommand

HELP = """\
check: is my own data and module right, exact, fast and safe?

  check                                    the default network
  check model=mine data=mine               what `train` with the same settings would train
  check only=resume,speed                  some of the checks, or of the groups right, exact, fast and safe
  check format=json                        for programs

A few batches are trained on, again and again, in a folder that is removed. The exit code is 1 if a check has failed.
docs/check.md says what each check means.
"""


class Check(TrainCommand):
    """Everything that `check` can be told: what `train` can, and which checks."""

    only: list[str] | None
    """Names of checks or groups; null for all."""
    format: Literal["table", "json"]
    """How to print what was found."""


def run(request: Request[Check]) -> None:
    """Check, and print what was found; exit with code 1 if a check has failed."""
    from litlab.checks.run import chosen, report

    asked = request.settings
    if not report(asked.of_run(), chosen(asked.only), asked.format):
        sys.exit(1)


COMMAND = Command(Check, HELP, run, rewrite=of_check)
