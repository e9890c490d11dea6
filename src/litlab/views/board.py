"""Where views are drawn."""

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """TensorBoard's, among a trainer's loggers; there may be none."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
