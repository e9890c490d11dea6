"""How well each class is recognised."""

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from litlab.callbacks.predictions import Predicted, PredictionView, class_names
from litlab.distributed.group import all_gather
from litlab.runs.run import Run

MOST_CURVES = 100
"""Classes that each have a curve; of more, TensorBoard would show none well and take long to write them all."""


class ClassAccuracy(PredictionView):
    """Logs the accuracy of each class in each validation to TensorBoard, and records that of the test.

    It is the share of the examples of a class that are recognised as such. With several validation or test loaders,
    each has its own accuracies, under Lightning's name for the loader, such as `val_class_acc/7/dataloader_idx_0`.
    There are no curves of more than MOST_CURVES classes.
    """

    every_loader = True

    def __init__(self, run: Run) -> None:
        self.run = run

    @override
    def start(self) -> None:
        self.counts: dict[int, Tensor] = {}

    @override
    def see(self, batch: Predicted) -> None:
        if self.loader not in self.counts:
            self.counts[self.loader] = torch.zeros(batch.scores.shape[1], 2, device=batch.scores.device)
        hits = (batch.classes == batch.targets).float()
        self.counts[self.loader].index_add_(0, batch.targets, torch.stack([torch.ones_like(hits), hits], dim=1))

    @override
    def finish(self, trainer: Trainer, stage: str) -> None:
        loaders = trainer.num_val_batches if stage == "val" else trainer.num_test_batches
        accuracies: dict[str, float] = {}
        for loader, own in self.counts.items():
            counts = torch.stack(all_gather(own)).sum(0)
            suffix = f"/dataloader_idx_{loader}" if len(loaders) > 1 else ""
            counted = zip(class_names(trainer, len(counts)), counts.tolist(), strict=True)
            accuracies |= {f"{name}{suffix}": hits / images for name, (images, hits) in counted if images}
        for logger in trainer.loggers if len(accuracies) <= MOST_CURVES * len(loaders) else []:
            if isinstance(logger, TensorBoardLogger):
                curves = {f"{stage}_class_acc/{name}": accuracy for name, accuracy in accuracies.items()}
                logger.log_metrics(curves, step=trainer.global_step)
        if stage == "test":
            self.run.record.metrics.test_by_class = accuracies
