"""Base of the views of what a classifier predicts."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from litlab.callbacks.predictions import PredictionView
from litlab.views.board import Board, boards


class AnswersView(PredictionView):
    """Draws what was predicted in the last validation and in the test; at each validation it would take too long.

    What was seen is part of a checkpoint, as a training may have to go on after its last validation.

    Attributes:
        keeps: the attribute that has it: tensors, or a list of such.
    """

    keeps: str

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seen": getattr(self, self.keeps)} if self.seen else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = True
        setattr(self, self.keeps, state_dict["seen"])

    def gather(self) -> None:
        """Take what the other processes have seen, too."""
        raise NotImplementedError

    def draw(self, board: Board, trainer: Trainer, stage: str) -> None:
        """Draw what was seen."""
        raise NotImplementedError

    @override
    def finish(self, trainer: Trainer, stage: str) -> None:
        self.gather()
        if stage == "test":
            self._draw(trainer, stage)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seen:
            self._draw(trainer, "val")

    def _draw(self, trainer: Trainer, stage: str) -> None:
        for board in boards(trainer):
            self.draw(board, trainer, stage)
