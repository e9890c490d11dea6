"""Where views are drawn, and whether that is done."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """TensorBoard's, among a trainer's loggers; there may be none, and there are in the first process alone."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


class DrawnOnce(Callback):
    """Base of what a run draws once, also if it is stopped and goes on."""

    drawn = False

    def state_dict(self) -> dict[str, Any]:
        """Whether it is drawn."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` has kept."""
        self.drawn = bool(state_dict["drawn"])
