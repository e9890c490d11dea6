"""How the network is made."""

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.module import _jit_is_scripting
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from litlab.callbacks.guard import undisturbed
from litlab.callbacks.predictions import OutputCallback, inputs_of
from litlab.views.board import DrawnOnce, writers


class Graph(DrawnOnce, OutputCallback):
    """Draws the operations of `forward`, as they are traced with the first of the `inputs` that a step has returned."""

    @override
    def on_outputs(self, trainer: Trainer, module: LightningModule, outputs: Any, dataloader_idx: int) -> None:
        inputs = inputs_of(outputs)
        if self.drawn or inputs is None:
            return
        self.drawn = True
        for writer in writers(trainer):
            with undisturbed(module):
                add_graph(writer, module, inputs[:1])


def add_graph(writer: SummaryWriter, module: LightningModule, example: Tensor) -> None:
    """Trace what the module does with the example."""
    # jit's trace is old, but the only one whose parts TensorBoard can name; its own check would trace thrice.
    with warnings.catch_warnings(), _jit_is_scripting():
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace  # which has no type hints
        writer.add_graph(trace(module, example, check_trace=False))
