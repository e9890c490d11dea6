"""The LightningModule: what is computed on a batch, what is logged, what is optimized."""

from collections.abc import Callable, Iterable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Trains a network to tell classes of images apart by cross entropy.

    Args:
        net: images (N, channels, height, width) to logits (N, classes).
        channels_last: store images and filters with the channels innermost: faster convolutions on a CPU.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning-rate schedule from the optimizer and the Trainer; None for none.
        augment: what is done to the training images, a batch at a time; None for nothing.
        label_smoothing: share of a label that is spread over all classes; in training only.
    """

    def __init__(
        self,
        net: nn.Module,
        channels_last: bool,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer, Trainer], LRSchedulerConfigType] | None = None,
        augment: nn.Module | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.memory_format)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.augment = augment or nn.Identity()
        self.loss = nn.CrossEntropyLoss()
        self.train_loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.val_accuracy = MulticlassAccuracy(average="micro")
        self.test_accuracy = MulticlassAccuracy(average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, height, width) to logits (N, classes)."""
        # The data are float32, whatever trainer.precision is; other types are a mistake, of which the network tells.
        kind = self.dtype if images.dtype == torch.float32 else images.dtype
        logits: Tensor = self.net(images.to(kind, memory_format=self.memory_format))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch of images and labels; logged at each step, with the accuracy."""
        images, labels = batch
        logits = self(self.augment(images))
        loss: Tensor = self.train_loss(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Loss and accuracy of the validation images, logged once they are all seen; returns what views draw."""
        return self._log_epoch("val", batch, self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Loss and accuracy of the test images, logged once they are all seen; returns what views draw."""
        return self._log_epoch("test", batch, self.test_accuracy)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and with it the schedule that moves its learning rate."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer, self.trainer)}

    def _log_epoch(self, stage: str, batch: Batch, accuracy: MulticlassAccuracy) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        accuracy.update(logits, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(labels), on_epoch=True)
        self.log(f"{stage}/acc", accuracy, on_epoch=True, prog_bar=True)
        return {"scores": logits, "targets": labels, "inputs": images}
