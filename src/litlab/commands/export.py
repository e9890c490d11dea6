"""`litlab export run=FOLDER format=onnx`: one file that answers as the run's model does, without this project."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from litlab.commands.command import Command, Request
from litlab.commands.trained import Trained
from litlab.config.schema import Paths
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.runs.links import refuse_traps

EXTRA = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": (), "safetensors": ("safetensors",)}
"""Packages of the extra `export` that a format takes."""

HELP = """\
export: one file that answers as a run's model does, without this project.

  litlab export run=last                          for ONNX Runtime: export/model.onnx in the run's folder
  litlab export run=last format=torch_export      for torch.export.load: export/model.pt2
  litlab export run=last format=safetensors       the network's weights: export/model.safetensors
  litlab export run=logs/train/runs/TIME file=network.onnx

Any module with a `forward` can be exported: a classifier answers by probabilities, others by the outputs of `forward`.
What was written is run on the whole test set; unless it answers the same, it is removed and the exit code is 1.
"""


class Export(Settings):
    """Everything that `export` can be told."""

    run: str | int
    """Folder of the run, a checkpoint in it, or `last` for the newest run."""
    format: Literal["onnx", "torch_export", "safetensors"]
    """What is written: a model for ONNX Runtime, one for torch.export.load, or the weights alone."""
    file: str | None
    """Where to; null for `export/model` in the run's folder, with the format's extension."""
    paths: Paths
    """Where things are."""


def run(request: Request[Export]) -> None:
    """Write the file, once it has answered the test set as the model does."""
    asked = request.settings
    trained = Trained.find(asked.run, asked.paths)
    if missing := [package for package in EXTRA[asked.format] if find_spec(package) is None]:
        raise UserError(f"format={asked.format}: takes {', '.join(missing)}; pip install -e '.[export]' brings all")
    if asked.file is None:
        refuse_traps(trained.run.folder, f"run={asked.run}")
    from litlab.inference.export import export

    file = Path(asked.file).expanduser() if asked.file else None
    export(trained.run, trained.settings, trained.checkpoint, asked.format, file)


COMMAND = Command(Export, HELP, run)
