"""How well each class is recognised."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from litlab.callbacks.predictions import Predictions, class_names
from litlab.engine.group import from_all
from litlab.runs.run import Run


class ClassAccuracy(Predictions):
    """Logs the accuracy of each class in each validation to TensorBoard, and records that of the test.

    It is the share of the images of a class that are recognised as such.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def start(self) -> None:
        """Count from nothing."""
        self.counts: Tensor | None = None

    def see(self, images: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Count the images and the hits of each class."""
        if self.counts is None:
            self.counts = torch.zeros(scores.shape[1], 2, device=scores.device)
        hits = (scores.argmax(1) == labels).float()
        self.counts.index_add_(0, labels, torch.stack([torch.ones_like(hits), hits], dim=1))

    def finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Log them."""
        if self.counts is None:
            return
        counts = torch.stack(from_all(self.counts)).sum(0)
        counted = zip(class_names(trainer, len(counts)), counts.tolist(), strict=True)
        accuracies = {name: hits / images for name, (images, hits) in counted if images}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                curves = {f"{stage}_class_acc/{name}": accuracy for name, accuracy in accuracies.items()}
                logger.log_metrics(curves, step=trainer.global_step)
        if stage == "test":
            self.run.record.metrics.test_by_class = accuracies
