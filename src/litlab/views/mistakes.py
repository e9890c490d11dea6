"""Where the network is most wrong."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from litlab.callbacks.predictions import class_names, colours
from litlab.engine.group import from_all
from litlab.views.answers import AnswersView
from litlab.views.figures import tiles


class Mistakes(AnswersView):
    """Draws the images that were mistaken with the highest loss, each with truth, guess and the guess's probability.

    Args:
        images: how many.
    """

    keeps = "worst"

    def __init__(self, images: int) -> None:
        self.images = images

    def start(self) -> None:
        """Forget the last ones."""
        self.worst: list[Tensor] = []

    def see(self, images: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Keep the worst of this batch and of those before."""
        losses = functional.cross_entropy(scores, labels, reduction="none")
        losses = losses.where(scores.argmax(1) != labels, -torch.inf)
        parts = [losses, images, labels, scores]
        self._keep(*([self.worst, parts] if self.worst else [parts]))

    def gather(self) -> None:
        """Keep the worst of all processes."""
        self._keep(*from_all(self.worst))

    def _keep(self, *found: list[Tensor]) -> None:
        parts = [torch.cat(part) for part in zip(*found, strict=True)]
        chosen = parts[0].topk(min(self.images, len(parts[0]))).indices
        self.worst = [part[chosen] for part in parts]

    def draw(self, writer: SummaryWriter, trainer: Trainer, stage: str) -> None:
        """Draw those that are mistakes."""
        losses, images, labels, scores = self.worst
        wrong = losses > -torch.inf
        if not wrong.any():
            return
        names = class_names(trainer, scores.shape[1])
        probabilities, guesses = scores[wrong].softmax(1).max(1)
        told = zip(labels[wrong].tolist(), guesses.tolist(), probabilities.tolist(), strict=True)
        captions = [f"{names[truth]} → {names[guess]}\n{probability:.0%}" for truth, guess, probability in told]
        figure = tiles(colours(images[wrong]), captions, "truth → guess, its probability; highest loss first")
        writer.add_figure(f"{stage}/mistakes", figure, trainer.global_step)
