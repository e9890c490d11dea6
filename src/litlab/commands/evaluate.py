"""`evaluate run=FOLDER`: test the weights that a run left behind."""

from litlab.commands.command import Command, Request
from litlab.commands.trained import OfRun, Trained
from litlab.config.compose import write_config
from litlab.config.schema import Train
from litlab.config.types import AbsolutePath, Settings
from litlab.errors import UserError
from litlab.runs.run import refuse_taken

HELP = """\
evaluate: test the weights that a run left behind.

  evaluate run=last                                         the newest run's best weights
  evaluate run=logs/train/runs/TIME                         this run's best weights
  evaluate run=logs/train/runs/TIME/checkpoints/last.ckpt   these weights
  evaluate run=… accelerator=cpu                            on the CPU
  evaluate run=… data.dir=/other/place                      the run's data has moved
"""


class DataPlace(Settings):
    """Where a run's data is by now."""

    dir: AbsolutePath | None
    """Folder of the data; null for the one that the run was trained with."""


class Evaluate(OfRun):
    """Everything that `evaluate` can be told."""

    data: DataPlace
    """Where the run's data is by now."""


def run(request: Request[Evaluate]) -> None:
    """Test the weights, and leave the record of it in the request's folder."""
    asked = request.settings
    trained = Trained.find(asked.run, asked.paths)
    settings = trained.settings if asked.data.dir is None else _with_data_in(trained.settings, asked.data.dir)
    refuse_taken(request.folder)
    write_config(request.folder, request.config)
    from litlab.inference.evaluate import evaluate

    accelerator = asked.accelerator or settings.trainer.accelerator
    evaluate(settings, trained.checkpoint, accelerator, trained.run.record.precision, request.folder)


def _with_data_in(settings: Train, folder: str) -> Train:
    """Return the run's settings with its data in another folder."""
    if "dir" not in settings.data:
        raise UserError(f"data.dir={folder}: {settings.data['_target_']}, the run's data module, takes no dir")
    return settings.model_copy(update={"data": settings.data | {"dir": folder}})


COMMAND = Command(Evaluate, HELP, run, leaves_run=True)
