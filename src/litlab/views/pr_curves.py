"""How precision and recall are traded."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from litlab.callbacks.predictions import Predicted, class_names
from litlab.distributed.group import all_gather
from litlab.views.answers import AnswersView
from litlab.views.board import Board

THRESHOLDS = 127
"""Points of a curve; TensorBoard takes no more."""


class PRCurves(AnswersView):
    """Draws the precision-recall curve of each class against all others.

    Args:
        classes: at most so many, the first ones.
    """

    keeps = "counts"

    def __init__(self, classes: int) -> None:
        self.classes = classes

    @override
    def start(self) -> None:
        self.counts: list[Tensor] = []  # (classes, hits or false alarms, thresholds), and how many classes there are

    @override
    def see(self, batch: Predicted) -> None:
        classes, device = batch.scores.shape[1], batch.scores.device
        shown = min(self.classes, classes)
        if not self.counts:
            self.counts = [torch.zeros(shown, 2, THRESHOLDS, device=device), torch.tensor(classes)]
        each = torch.arange(shown, device=device)
        bins = (batch.probabilities[:, :shown] * (THRESHOLDS - 1)).long()
        is_other = (batch.targets[:, None] != each).long()
        places = ((each * 2 + is_other) * THRESHOLDS + bins).flatten()
        self.counts[0].view(-1).index_add_(0, places, torch.ones_like(places, dtype=torch.float32))

    @override
    def gather(self) -> None:
        self.counts[0] = torch.stack([counts for counts, _ in all_gather(self.counts)]).sum(0)

    @override
    def draw(self, board: Board, trainer: Trainer, stage: str) -> None:
        all_counts, classes = self.counts
        for name, counts in zip(class_names(trainer, int(classes)), all_counts.cpu(), strict=False):
            hits, false_alarms = counts.flip(1).cumsum(1).flip(1)  # of all that are at least as probable
            rejected, missed = false_alarms[0] - false_alarms, hits[0] - hits
            precision, recall = hits / (hits + false_alarms).clamp(min=1), hits / hits[0].clamp(min=1)
            curve = (hits, false_alarms, rejected, missed, precision, recall)
            board.add_pr_curve_raw(f"{stage}_class/{name}", *curve, trainer.global_step, THRESHOLDS)
