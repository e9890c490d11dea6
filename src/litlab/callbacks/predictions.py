"""What a classifier predicts while it is validated or tested, as its validation_step and test_step return it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

NO_CLASS = -1
"""The predicted class of an example whose scores are not numbers."""


CLASS_TYPES = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Types of numbers that may be classes."""


@dataclass(frozen=True)
class Predicted:
    """A batch as a classifier has predicted it, in evaluation."""

    scores: Tensor
    """Logits (N, classes), float32."""
    targets: Tensor
    """The true classes (N,), int64, each less than `classes`."""
    images: Tensor | None
    """The inputs (N, channels, height, width), if they are images."""

    @property
    def classes(self) -> Tensor:
        """The predicted classes (N,): those with the highest score, NO_CLASS where scores are NaN or infinite."""
        return self.scores.argmax(1).where(self.scores.logsumexp(1).isfinite(), NO_CLASS)

    @property
    def probabilities(self) -> Tensor:
        """The scores' softmax (N, classes); 0 where scores are NaN or infinite."""
        return self.scores.softmax(1).nan_to_num(0.0)


def classified(outputs: Any) -> Predicted | None:
    """The batch that a step has returned as a classifier does: a mapping with `scores` (N, classes), `targets` (N,).

    `inputs` may come with them. Examples with a negative target do not count, as in torch's losses. Anything else, such
    as a loss alone, one score an example or targets with several classes each, is not a classifier's: None.

    Raises:
        ValueError: there are fewer scores than classes among the targets.
    """
    scores, targets, images = (_tensor(outputs, key) for key in ("scores", "targets", "inputs"))
    if scores is None or targets is None or scores.ndim != 2 or targets.shape != scores.shape[:1]:
        return None
    if (
        scores.shape[1] < 2
        or not scores.is_floating_point()
        or targets.is_floating_point()
        or targets.dtype == torch.bool
    ):
        return None
    if images is not None and (images.ndim != 4 or len(images) != len(targets)):
        images = None
    targets = targets.long()
    counted = targets >= 0
    if not counted.all():
        scores, targets, images = scores[counted], targets[counted], None if images is None else images[counted]
    if len(targets) and targets.max() >= scores.shape[1]:
        raise ValueError(f"there is a target {targets.max()}, and a score for {scores.shape[1]} classes")
    return Predicted(scores.detach().float(), targets, images)


def inputs_of(outputs: Any) -> Tensor | None:
    """The `inputs` that a step has returned, if they are one tensor."""
    return _tensor(outputs, "inputs")


def _tensor(outputs: Any, key: str) -> Tensor | None:
    value = outputs.get(key) if isinstance(outputs, Mapping) else None
    return value if isinstance(value, Tensor) else None


class OutputCallback(Callback):
    """Base of callbacks that look at what `validation_step` and `test_step` return."""

    def on_outputs(self, trainer: Trainer, module: LightningModule, outputs: Any, dataloader_idx: int) -> None:
        """Look at what a step has returned of a batch."""
        raise NotImplementedError

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.on_outputs(trainer, pl_module, outputs, dataloader_idx)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.on_outputs(trainer, pl_module, outputs, dataloader_idx)


class PredictionView(OutputCallback):
    """Base of callbacks that look at each batch that a classifier has predicted, in a validation or a test.

    Of several validation or test loaders the first one is looked at, unless `every_loader` is set. Of several processes
    that train together each sees its own share. A module that returns nothing, or what `classified` does not take, is
    not looked at, and `finish` is not called.

    Attributes:
        seen: whether anything was seen in the last validation or test.
        every_loader: whether the batches of each loader are looked at.
        loader: index of the loader of the batch that is being looked at.
    """

    seen = every_loader = False
    loader = 0

    def start(self) -> None:
        """Forget what was seen before."""

    def see(self, batch: Predicted) -> None:
        """Look at a batch."""
        raise NotImplementedError

    def finish(self, trainer: Trainer, stage: str) -> None:
        """Show all that was seen; `stage` is val or test."""
        raise NotImplementedError

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    @override
    def on_outputs(self, trainer: Trainer, module: LightningModule, outputs: Any, dataloader_idx: int) -> None:
        batch = classified(outputs) if dataloader_idx == 0 or self.every_loader else None
        if batch is not None:
            self.seen, self.loader = True, dataloader_idx
            self.see(batch)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = self.seen and not trainer.sanity_checking
        if self.seen:
            self.finish(trainer, "val")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seen:
            self.finish(trainer, "test")

    def _restart(self) -> None:
        self.seen = False
        self.start()


def colours(images: Tensor) -> Tensor:
    """Images as they can be shown: of other numbers of channels than 1 and 3, the mean of them."""
    return images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)


def features_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What gives the features of images: `features`, of the module or of the first of its parts that has it."""
    parts = (getattr(part, "features", None) for part in module.modules())
    return next((features for features in parts if callable(features)), None)


def class_names(trainer: Trainer, classes: int) -> Sequence[str]:
    """The data module's `class_names`, if it has one for each class; else numbers from 0."""
    names: Sequence[str] | None = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
    return names if names and len(names) == classes else [str(index) for index in range(classes)]
