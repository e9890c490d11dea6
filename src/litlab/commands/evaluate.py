"""`evaluate run=FOLDER`: test the weights that a run left behind."""

from pathlib import Path

from litlab.commands.command import Command, Request
from litlab.commands.trained import OfRun, Trained
from litlab.config.compose import write_config
from litlab.config.schema import Train
from litlab.config.types import AbsolutePath, Settings, SplitName
from litlab.errors import UserError
from litlab.runs.run import refuse_taken

HELP = """\
evaluate: test the weights that a run left behind.

  evaluate run=last                                         the newest run's best weights
  evaluate run=logs/train/runs/TIME                         this run's best weights
  evaluate run=logs/train/runs/TIME/checkpoints/last.ckpt   these weights
  evaluate run=… accelerator=cpu                            on the CPU
  evaluate run=… data.dir=/other/place                      the run's data has moved, or other data
  evaluate run=… split=val                                  the validation split, or train, or test
  evaluate run=… output=examples.csv                        a row for each example: target, prediction, scores
"""


class DataPlace(Settings):
    """Where a run's data is by now."""

    dir: AbsolutePath | None
    """Folder of the data; null for the one that the run was trained with."""


class Evaluate(OfRun):
    """Everything that `evaluate` can be told."""

    data: DataPlace
    """Where the run's data is by now."""
    split: SplitName
    """Part of the data: by `test_step` for test, else by `validation_step`; the training split without shuffling."""
    output: str | None
    """CSV file to write, with a row for each example; null for none."""


def run(request: Request[Evaluate]) -> None:
    """Test the weights, and leave the record of it in the request's folder."""
    asked = request.settings
    trained = Trained.find(asked.run, asked.paths)
    settings = trained.settings if asked.data.dir is None else _with_data_in(trained.settings, asked.data.dir)
    refuse_taken(request.folder)
    write_config(request.folder, request.config)
    from litlab.inference.evaluate import evaluate

    accelerator = asked.accelerator or settings.trainer.accelerator
    output = Path(asked.output).expanduser() if asked.output else None
    precision = trained.run.record.precision
    evaluate(settings, trained.checkpoint, accelerator, precision, request.folder, asked.split, output)


def _with_data_in(settings: Train, folder: str) -> Train:
    """Return the run's settings with its data in another folder."""
    if "dir" not in settings.data:
        raise UserError(f"data.dir={folder}: {settings.data['_target_']}, the run's data module, takes no dir")
    return settings.model_copy(update={"data": settings.data | {"dir": folder}})


COMMAND = Command(Evaluate, HELP, run, leaves_run=True)
