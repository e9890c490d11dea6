"""Writing checkpoints: whole at every moment, and in the run's folder only."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO
from torch import Tensor

from litlab.errors import UserError
from litlab.files import replacing
from litlab.runs.checkpoint import TRAINED, read, require_readable


class AtomicCheckpointIO(CheckpointIO):
    """How Lightning writes and reads the checkpoints of a run; it touches no other file than those in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint in the place of the one that `path` may hold."""
        file = Path(path)
        if not self._is_inside(file):
            raise UserError(f"{file} is outside the run's folder: a callback may keep checkpoints only inside")
        if self.folder.exists():  # if it has vanished, it was not by mistake
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(file) as aside:
                with aside.open("wb") as stream:
                    torch.save(checkpoint, stream)
                require_readable(aside, checkpoint)
        except RuntimeError as error:  # of PyTorch, where the disk is full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What a checkpoint holds, on the CPU, with the weights that the training goes on with."""
        checkpoint = read(Path(path))
        if TRAINED in checkpoint:
            checkpoint["state_dict"] = checkpoint.pop(TRAINED)
        return checkpoint

    def replace_weights(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Make these weights the checkpoint's; those that the training goes on with are kept beside them."""
        checkpoint = read(path)
        checkpoint.setdefault(TRAINED, checkpoint["state_dict"])
        self.save_checkpoint(checkpoint | {"state_dict": weights}, path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint of this run; a path that came out of another one may name any file."""
        if self._is_inside(Path(path)):
            Path(path).unlink(missing_ok=True)

    def _is_inside(self, file: Path) -> bool:
        """Whether a file is in the run's folder; a link there is replaced or removed itself, wherever it leads."""
        return file.parent.resolve().is_relative_to(self.folder.resolve())
