"""How precision and recall are traded."""

from itertools import chain

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from litlab.callbacks.predictions import class_names
from litlab.engine.group import from_all
from litlab.views.answers import AnswersView


class PRCurves(AnswersView):
    """Draws the precision-recall curve of each class against all others.

    Args:
        classes: at most so many, the first ones.
    """

    keeps = "answers"

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def start(self) -> None:
        """Forget the last answers."""
        self.answers: list[tuple[Tensor, Tensor]] = []

    def see(self, images: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Keep the probabilities."""
        self.answers.append((labels, scores.softmax(1)[:, : self.classes]))

    def gather(self) -> None:
        """Take those of all processes."""
        self.answers = list(chain.from_iterable(from_all(self.answers)))

    def draw(self, writer: SummaryWriter, trainer: Trainer, stage: str) -> None:
        """Draw a curve for each class."""
        labels, probabilities = (torch.cat(parts).cpu() for parts in zip(*self.answers, strict=True))
        names = class_names(trainer, probabilities.shape[1])
        for index, probability in enumerate(probabilities.T):
            writer.add_pr_curve(f"{stage}_class/{names[index]}", labels == index, probability, trainer.global_step)
