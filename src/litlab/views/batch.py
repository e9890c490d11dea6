"""What the network is shown while it learns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from litlab.callbacks.guard import undisturbed
from litlab.callbacks.predictions import CLASS_TYPES, colours
from litlab.views.board import DrawnOnce, boards
from litlab.views.figures import tiles


class TrainingBatch(DrawnOnce):
    """Draws the first images of a training batch, after the module's `augment`, if it has one.

    The images are the batch, or the first tensor (N, channels, height, width) in it. Above them stands what else the
    batch has one number an image of, such as labels; nothing is drawn of a batch without images.

    Args:
        images: how many.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.drawn:
            return
        self.drawn = True  # or it will be no better the next time
        tensors = [part for part in _parts(batch) if isinstance(part, Tensor)]
        images = next((part for part in tensors if part.ndim == 4), None)
        if images is None or not boards(trainer):
            return
        labels = next((part for part in tensors if part.shape == images.shape[:1]), None)
        with undisturbed(pl_module):
            augment = getattr(pl_module, "augment", None)
            shown = colours((augment(images) if callable(augment) else images)[: self.images])
        captions = [""] * len(shown) if labels is None else _captions(trainer, labels[: self.images])
        for board in boards(trainer):
            figure = tiles(shown, captions, "training images, augmented")
            board.add_figure("train/batch", figure, trainer.global_step)


def _parts(batch: Any) -> Iterable[Any]:
    if isinstance(batch, Mapping):
        return batch.values()
    return batch if isinstance(batch, tuple | list) else [batch]


def _captions(trainer: Trainer, labels: Tensor) -> Sequence[str]:
    """The classes' names, where the data module names classes and the labels are such; else the numbers."""
    names: Sequence[str] = getattr(trainer.datamodule, "class_names", None) or ()  # type: ignore[attr-defined]
    is_class = labels.dtype in CLASS_TYPES and bool(((labels >= 0) & (labels < len(names))).all())
    return [
        names[label] if is_class else f"{label:.4g}" if isinstance(label, float) else str(label)
        for label in labels.tolist()
    ]
