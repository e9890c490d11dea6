"""How the network is made."""

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.module import _jit_is_scripting
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from litlab.callbacks.predictions import is_classified
from litlab.errors import UserError
from litlab.refusals import first_lines
from litlab.views.board import DrawnOnce, writers

log = logging.getLogger(__name__)


class Graph(DrawnOnce):
    """Draws the operations of `forward`, as they are traced with one image of the first validation or test."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw it, unless that is done."""
        self._draw(trainer, pl_module, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw it, unless that is done."""
        self._draw(trainer, pl_module, batch)

    def _draw(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if not self.drawn and is_classified(batch):
            self.drawn = True
            for writer in writers(trainer):
                add_graph(writer, module, batch[0][:1])


def add_graph(writer: SummaryWriter, module: LightningModule, image: Tensor) -> None:
    """Trace what the module does with the image; one that cannot be traced has no graph."""
    try:
        # jit's trace is old, but the only one whose parts TensorBoard can name; its own check would trace thrice.
        with warnings.catch_warnings(), _jit_is_scripting():
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace  # which has no types
            writer.add_graph(trace(module, image, check_trace=False))
    except UserError:  # the user's to put right
        raise
    except Exception as error:  # whatever a forward may raise that meets a tracer
        log.info("there is no graph: %s", first_lines(error))
