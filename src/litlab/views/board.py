"""Where views are drawn, and whether that is done."""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from litlab.callbacks.trackers import is_tracker, log_picture


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """TensorBoard's, among a trainer's loggers; there may be none, and there are in the first process alone."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


class PictureBoard:
    """A tracker with the methods of TensorBoard's SummaryWriter that views call."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        """Log a figure."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        log_picture(self._logger, tag, np.asarray(canvas.buffer_rgba())[..., :3], step)  # type: ignore[no-untyped-call]

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        """Log a picture (3, height, width), uint8."""
        log_picture(self._logger, tag, picture.permute(1, 2, 0).numpy(), step)

    def add_pr_curve_raw(self, *_: Any) -> None:
        """Do nothing: trackers have no such curves."""


Board = SummaryWriter | PictureBoard
"""What views draw on."""


def boards(trainer: Trainer) -> list[Board]:
    """TensorBoard's writers and the trackers among a trainer's loggers, in the first process."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [*writers(trainer), *(PictureBoard(logger) for logger in loggers if is_tracker(logger))]


class DrawnOnce(Callback):
    """Base of what a run draws once, also if it is stopped and goes on."""

    drawn = False

    def state_dict(self) -> dict[str, Any]:
        """Whether it is drawn."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` has kept."""
        self.drawn = bool(state_dict["drawn"])
