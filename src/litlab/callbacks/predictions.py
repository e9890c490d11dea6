"""What a classifier answers while it is validated or tested."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Predictions(Callback):
    """Base of callbacks that look at each answer of a validation or a test, which costs no second pass.

    Of several processes that train together each sees the answers to its own share, and each sees some.

    The answers are what `forward` gives: scores (N, classes) for a batch of images and labels (N,). Of a model that
    answers otherwise nothing is seen, and `finish` is not called.

    Of several validation or test loaders, the first one counts, unless `every_loader` is set.

    Attributes:
        seen: whether anything was, in the last validation or test.
        every_loader: whether the answers for each loader are seen.
        loader: index of the loader of the batch that is being seen.
    """

    seen = every_loader = False
    loader = 0
    _hook: RemovableHandle | None = None
    _scores: Any = None

    def start(self) -> None:
        """Forget what was seen before."""

    def see(self, images: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Look at a batch and the answers to it."""
        raise NotImplementedError

    def finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Show what was seen in the whole; `stage` is val or test."""
        raise NotImplementedError

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        self._listen(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        self._listen(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the answers to this batch."""
        self._take(batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the answers to this batch."""
        self._take(batch, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show them, unless this is the check before training."""
        self._end()
        self.seen = self.seen and not trainer.sanity_checking
        if self.seen:
            self.finish(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show them."""
        self._end()
        if self.seen:
            self.finish(trainer, pl_module, "test")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no longer."""
        self._end()

    def _listen(self, module: LightningModule) -> None:
        def keep(_module: nn.Module, _arguments: Any, scores: Any) -> None:
            self._scores = scores

        self._end()
        self.seen = False
        self._hook = module.register_forward_hook(keep)
        self.start()

    def _take(self, batch: Any, loader: int) -> None:
        scores, self._scores = self._scores, None
        if loader > 0 and not self.every_loader:
            return
        if is_classified(batch) and isinstance(scores, Tensor) and scores.ndim == 2 and len(scores) == len(batch[1]):
            self.seen, self.loader = True, loader
            self.see(batch[0], batch[1], scores.detach().float())

    def _end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def is_classified(batch: Any) -> bool:
    """Whether a batch is images (N, channels, height, width) and labels (N,)."""
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    return is_pair and batch[0].ndim == 4 and batch[1].ndim == 1 and batch[1].dtype == torch.int64


def colours(images: Tensor) -> Tensor:
    """Images as they can be shown: of other numbers of channels than 1 and 3, the mean of them."""
    return images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)


def features_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What gives the features of images: `features`, of the module or of the first of its parts that has it."""
    parts = (getattr(part, "features", None) for part in module.modules())
    return next((features for features in parts if callable(features)), None)


def class_names(trainer: Trainer, classes: int) -> Sequence[str]:
    """The data module's `class_names`, if it has them; else numbers from 0."""
    names: Sequence[str] | None = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
    return names or [str(index) for index in range(classes)]
