"""Where the network is most wrong."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from litlab.callbacks.predictions import NO_CLASS, Predicted, class_names, colours
from litlab.distributed.group import all_gather
from litlab.views.answers import AnswersView
from litlab.views.board import Board
from litlab.views.figures import tiles


class Mistakes(AnswersView):
    """Draws the images that were mistaken with the highest loss, each with truth, guess and the guess's probability.

    Args:
        images: how many.
    """

    keeps = "worst"

    def __init__(self, images: int) -> None:
        self.images = images

    @override
    def start(self) -> None:
        self.worst: list[Tensor] = []

    @override
    def see(self, batch: Predicted) -> None:
        if batch.images is None:
            return
        losses = functional.cross_entropy(batch.scores, batch.targets, reduction="none").nan_to_num(torch.inf)
        losses = losses.where(batch.classes != batch.targets, -torch.inf)
        parts = [losses, batch.images, batch.targets, batch.scores]
        self._keep(*([self.worst, parts] if self.worst else [parts]))

    @override
    def gather(self) -> None:
        if found := list(filter(None, all_gather(self.worst))):
            self._keep(*found)

    def _keep(self, *found: list[Tensor]) -> None:
        parts = [torch.cat(part) for part in zip(*found, strict=True)]
        chosen = parts[0].topk(min(self.images, len(parts[0]))).indices
        self.worst = [part[chosen] for part in parts]

    @override
    def draw(self, board: Board, trainer: Trainer, stage: str) -> None:
        wrong = self.worst[0] > -torch.inf if self.worst else torch.zeros(0, dtype=torch.bool)
        if not wrong.any():
            return
        _, images, targets, scores = (part[wrong] for part in self.worst)
        found = Predicted(scores, targets, images)
        names = class_names(trainer, scores.shape[1])
        told = zip(targets.tolist(), found.classes.tolist(), found.probabilities.amax(1).tolist(), strict=True)
        captions = [
            f"{names[truth]} → " + ("NaN" if guess == NO_CLASS else f"{names[guess]}\n{probability:.0%}")
            for truth, guess, probability in told
        ]
        figure = tiles(colours(images), captions, "truth → guess, its probability; highest loss first")
        board.add_figure(f"{stage}/mistakes", figure, trainer.global_step)
