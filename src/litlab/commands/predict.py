"""`predict run=FOLDER input=PATH`: what is on pictures."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from litlab.commands.command import Command, Request
from litlab.commands.trained import OfRun, Trained
from litlab.config.command_line import of_predict
from litlab.console import require_written

HELP = """\
predict: what is on pictures, by the best weights of a run.

  predict run=last input=scan.png                 one picture
  predict run=last input=scans                    all in a folder, at any depth
  predict run=logs/train/runs/TIME input='*.png'  all that fit a pattern
  predict run=last input=- < scan.png             one on standard input
  predict … format=json                           or csv
  predict … show=true                             draw what the network sees, with its answers

The exit code is 1 where some files could not be read, which are named, and 2 where none could.
"""


class Predict(OfRun):
    """Everything that `predict` can be told."""

    input: Annotated[str, Field(min_length=1)]
    """A picture, a folder of them, a pattern such as 'scans/*.png', or `-` for one on standard input."""
    format: Literal["table", "json", "csv"]
    """What is printed: a table for people, or a document with all digits."""
    show: bool | str
    """Whether to draw the inputs as the network sees them, with its answers, into predictions.png, or the file to."""


def run(request: Request[Predict]) -> None:
    """Print what is on the pictures; exit with code 1 or 2 if some or all could not be read."""
    asked = request.settings
    trained = Trained.find(asked.run, asked.paths)
    from litlab.data.pictures import find

    pictures = find(asked.input)
    from litlab.inference.predict import predict, report

    accelerator = asked.accelerator or trained.settings.trainer.accelerator
    predictions = predict(trained.settings, trained.checkpoint, accelerator, trained.run.record.precision, pictures)
    drawing = "predictions.png" if asked.show is True else asked.show
    code = report(predictions, asked.format, Path(drawing).expanduser() if drawing else None)
    require_written()
    sys.exit(code)


COMMAND = Command(Predict, HELP, run, rewrite=of_predict)
