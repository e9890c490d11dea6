"""Which classes are mistaken for which."""

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import override

from litlab.callbacks.predictions import NO_CLASS, Predicted, class_names
from litlab.distributed.group import all_gather
from litlab.views.answers import AnswersView
from litlab.views.board import Board
from litlab.views.figures import WIDTH

MOST_NUMBERED = 20
"""Classes whose counts can still be read."""


MOST_CLASSES = 1000
"""Classes of which a matrix is counted; of more it would need too much memory, and show nothing."""


class ConfusionMatrix(AnswersView):
    """Draws how many examples of each class were taken for each, and the share that was right.

    A last column, if anything is in it, has those whose scores are not numbers.
    """

    keeps = "counts"

    @override
    def start(self) -> None:
        self.counts: Tensor | None = None

    @override
    def see(self, batch: Predicted) -> None:
        classes = batch.scores.shape[1]
        if classes > MOST_CLASSES:
            raise ValueError(f"{classes} classes are too many to draw, more than {MOST_CLASSES}")
        if self.counts is None:
            self.counts = torch.zeros(classes, classes + 1, device=batch.scores.device)
        places = batch.targets * (classes + 1) + batch.classes.where(batch.classes != NO_CLASS, classes)
        self.counts.view(-1).index_add_(0, places, torch.ones_like(places, dtype=torch.float32))

    @override
    def gather(self) -> None:
        if self.counts is not None:
            self.counts = torch.stack(all_gather(self.counts)).sum(0)

    @override
    def draw(self, board: Board, trainer: Trainer, stage: str) -> None:
        if self.counts is not None:
            figure = matrix(self.counts.cpu(), list(class_names(trainer, len(self.counts))))
            board.add_figure(f"{stage}/confusion", figure, trainer.global_step)


def matrix(counts: Tensor, names: list[str]) -> Figure:
    """The picture of counts (truth, guess), whose last guess is none.

    Colours are shares of the truth, where nothing is, nothing is written.
    """
    names = [*names, "NaN"]
    if not counts[:, -1].any():
        counts, names = counts[:, :-1], names[:-1]
    numbered = len(names) <= MOST_NUMBERED
    room = 0.11 + 0.02 * max(map(len, names)) if numbered else 0.15  # for the names; a layout engine would draw twice
    figure = Figure(figsize=(WIDTH, WIDTH))
    axes = figure.add_axes((room, room, 0.87 - room, 0.92 - room))
    totals = counts.sum(1, keepdim=True)
    shares = counts / totals.clamp(min=1)
    wrong = shares.clone().fill_diagonal_(0)
    # The few mistakes of a good network would all be white beside the diagonal; so they get the colours.
    axes.imshow(wrong.numpy(), cmap="Reds", vmin=0)
    if numbered:
        for truth, guess in counts.nonzero().tolist():
            dark = wrong[truth, guess] > 0.6 * wrong.max()
            number = f"{counts[truth, guess]:.0f}"
            axes.text(guess, truth, number, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        rotation = 0 if sum(map(len, names)) < 30 else 90
        axes.set_xticks(range(len(names)), names, rotation=rotation, parse_math=False)
        axes.set_yticks(range(len(counts)), names[: len(counts)], parse_math=False)
        for truth, share in enumerate(shares.diagonal().tolist()):
            axes.text(len(names) - 0.3, truth, f"{share:.1%}", va="center", fontsize=8)
    axes.set_xlabel("guess")
    axes.set_ylabel("truth")
    accuracy = counts.diagonal().sum() / counts.sum()
    figure.suptitle(f"{accuracy:.2%} of {counts.sum():.0f} are right; beside it, of each class", fontsize=10)
    return figure
