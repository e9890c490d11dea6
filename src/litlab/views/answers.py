"""Base of the views of what a classifier answers."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from litlab.callbacks.predictions import Predictions
from litlab.errors import UserError
from litlab.views.board import writers


class AnswersView(Predictions):
    """Draws what was answered in the last validation and in the test; at each validation it would take too long.

    What was seen is part of a checkpoint, as a training may have to go on after its last validation.

    Attributes:
        keeps: the attribute that has it: tensors, or a list of such.
    """

    keeps: str
    _restored = False

    def state_dict(self) -> dict[str, Any]:
        """What was seen in the last validation."""
        return {"seen": getattr(self, self.keeps)} if self.seen else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The reverse."""
        self.seen = self._restored = True
        setattr(self, self.keeps, state_dict["seen"])

    def gather(self) -> None:
        """Take what the other processes have seen, too."""
        raise NotImplementedError

    def draw(self, writer: SummaryWriter, trainer: Trainer, stage: str) -> None:
        """Draw what was seen."""
        raise NotImplementedError

    def finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Draw the test."""
        self._restored = False
        self.gather()
        if stage == "test":
            self._draw(trainer, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last validation.

        Raises:
            UserError: it came out of a checkpoint, which may be anybody's, and fits nothing.
        """
        if not self.seen:
            return
        try:
            self._draw(trainer, "val")
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if not self._restored:
                raise
            raise UserError(f"the checkpoint is damaged: it has no fitting {self.keeps} of a validation") from error

    def _draw(self, trainer: Trainer, stage: str) -> None:
        for writer in writers(trainer):
            self.draw(writer, trainer, stage)
