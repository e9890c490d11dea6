"""Which classes are mistaken for which."""

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from litlab.callbacks.predictions import class_names
from litlab.engine.group import from_all
from litlab.views.answers import AnswersView
from litlab.views.figures import WIDTH

MOST_NUMBERED = 20
"""Classes whose counts can still be read."""


class ConfusionMatrix(AnswersView):
    """Draws how many images of each class were taken for each, and the share that was right."""

    keeps = "counts"

    def start(self) -> None:
        """Count from nothing."""
        self.counts: Tensor | None = None

    def see(self, images: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Count this batch."""
        classes = scores.shape[1]
        if self.counts is None:
            self.counts = torch.zeros(classes * classes, device=scores.device)
        self.counts.index_add_(0, labels * classes + scores.argmax(1), torch.ones_like(labels, dtype=torch.float32))

    def gather(self) -> None:
        """Add up the counts of all processes."""
        if self.counts is not None:
            self.counts = torch.stack(from_all(self.counts)).sum(0)

    def draw(self, writer: SummaryWriter, trainer: Trainer, stage: str) -> None:
        """Draw the counts."""
        if self.counts is not None:
            counts = self.counts.reshape(int(len(self.counts) ** 0.5), -1).cpu()
            figure = matrix(counts, list(class_names(trainer, len(counts))))
            writer.add_figure(f"{stage}/confusion", figure, trainer.global_step)


def matrix(counts: Tensor, names: list[str]) -> Figure:
    """The picture of counts (truth, guess); colours are shares of the truth, where nothing is, nothing is written."""
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
        axes.set_xticks(range(len(names)), names, rotation=rotation)
        axes.set_yticks(range(len(names)), names)
        for truth, share in enumerate(shares.diagonal().tolist()):
            axes.text(len(names) - 0.3, truth, f"{share:.1%}", va="center", fontsize=8)
    axes.set_xlabel("guess")
    axes.set_ylabel("truth")
    accuracy = counts.diagonal().sum() / counts.sum()
    figure.suptitle(f"{accuracy:.2%} of {counts.sum():.0f} are right; beside it, of each class", fontsize=10)
    return figure
