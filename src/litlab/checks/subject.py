"""The config under check, reduced to a few batches, and helpers to train it and to compare results."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from litlab.checks.verdict import NotCheckable
from litlab.checks.watch import StopAt, Watch
from litlab.config import schema
from litlab.errors import Pruned
from litlab.runs.checkpoint import read
from litlab.runs.run import Run
from litlab.training.build import Training, build_training
from litlab.training.train import train

BATCHES, EPOCHS = 6, 2
"""Training batches in an epoch, and epochs, of a reduced training."""

VALIDATED = 2
"""Validation batches of a reduced training."""


class Subject:
    """A config under check, with the user's data module and LightningModule.

    Args:
        settings: the config.
        folder: gets a sub-folder for each training; the caller removes it.
    """

    def __init__(self, settings: schema.Train, folder: Path) -> None:
        self.told, self.folder = settings, folder
        self._numbers = count()

    def settings(self, *, monitored: bool = True, data: dict[str, Any] | None = None, **trainer: Any) -> schema.Train:
        """Return the settings of a reduced training.

        Args:
            monitored: whether there is a monitored metric; False leaves out early stopping and ReduceLROnPlateau, too.
            data: changed settings of the data module.
            trainer: changed arguments of the Trainer.
        """
        cut = {
            "precision": "32-true", "max_epochs": EPOCHS, "max_steps": -1, "max_time": None, "profiler": None,
            "limit_train_batches": BATCHES, "val_check_interval": 1.0, "check_val_every_n_epoch": 1,
            "limit_val_batches": VALIDATED if self.told.trainer.limit_val_batches else 0, "num_sanity_val_steps": 0,
            "compile": False, "devices": 1,
        }  # fmt: skip
        changed = self.told.trainer.model_copy(update=cut | trainer)
        changed.__pydantic_extra__ = self.told.trainer.others | {"enable_progress_bar": False}
        checkpoint: dict[str, Any] = {"every_n_steps": None, "every_minutes": None}
        scheduler, callbacks = self.told.scheduler, self.told.callbacks
        callbacks = {name: node for name, node in callbacks.items() if "LearningRateFinder" not in node["_target_"]}
        if not monitored:
            checkpoint |= {"monitor": None, "mode": None}
            callbacks = {name: node for name, node in callbacks.items() if "monitor" not in node}
            scheduler = None if scheduler and scheduler["_target_"].endswith("ReduceLROnPlateau") else scheduler
        return self.told.model_copy(
            update={
                "trainer": changed, "data": self.told.data | (data or {}), "logger": {}, "views": {}, "test": False,
                "scheduler": scheduler, "callbacks": callbacks,
                "checkpoint": self.told.checkpoint.model_copy(update=checkpoint),
            }
        )  # fmt: skip

    def train(self, settings: schema.Train, *callbacks: Callback, stopped_at: int | None = None) -> Run:
        """Train; with `stopped_at`, stop before that batch of the second epoch and resume in a new Trainer."""
        folder = self._new_folder()
        if stopped_at is None:
            return train(settings, Run.create(folder, settings.seed), callbacks=callbacks)
        saving = settings.checkpoint.model_copy(update={"every_n_steps": 1})
        settings = settings.model_copy(update={"checkpoint": saving})
        try:
            train(settings, Run.create(folder, settings.seed), callbacks=[*callbacks, StopAt(stopped_at)])
        except Pruned:
            return train(settings, Run.reopen(folder), callbacks=callbacks)
        raise NotCheckable("an epoch has too few batches to be stopped in")

    def built(self, **trainer: Any) -> Training:
        """Build data, module and Trainer without training, and set up the data."""
        settings = self.settings(**trainer)
        seed_everything(settings.seed, workers=True, verbose=False)
        training = build_training(settings, Run.create(self._new_folder(), settings.seed))
        training.data.prepare_data()
        training.data.setup("fit")
        return training

    @cached_property
    def watched(self) -> Watch:
        """Train once, with a Watch, which is returned."""
        watch = Watch()
        self.train(self.settings(), watch)
        return watch

    def affordable(self, most: int, seconds: float) -> int:
        """Return how many steps fit into so many seconds: at least 10, at most `most`."""
        return int(min(most, max(10, seconds / self.watched.seconds)))

    @cached_property
    def whole(self) -> Run:
        """Train once, without further callbacks."""
        return self.train(self.settings())

    def _new_folder(self) -> Path:
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        return folder


def final(run: Run) -> dict[str, Any]:
    """Read the state dicts of module, optimizers and schedulers at the end of a run."""
    checkpoint = read(run.folder / "checkpoints" / "last.ckpt")
    return {part: checkpoint[part] for part in ("state_dict", "optimizer_states", "lr_schedulers")}


def difference(one: Any, other: Any, tolerance: float = 0.0) -> str | None:
    """Describe how two nested states of tensors and values differ; None if they are equal.

    Args:
        one: the first state.
        other: the second state.
        tolerance: largest difference allowed, relative to the largest number of a tensor.
    """
    ones, shape = tree_flatten(one)
    others, other_shape = tree_flatten(other)
    if shape != other_shape:
        return "what is kept is not the same"
    gaps = [_gap(a, b) for a, b in zip(ones, others, strict=True)]
    beyond = [gap for gap in gaps if not gap <= tolerance]
    return f"{len(beyond)} of {len(gaps)} tensors and values differ, by up to {max(beyond):.2g}" if beyond else None


def _gap(one: Any, other: Any) -> float:
    """Return the largest relative difference of two tensors; for other values 0 or 1."""
    if not isinstance(one, Tensor):
        return float(one != other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if torch.equal(one, other):
        return 0.0
    scale = max(float(one.abs().max()), 1e-12)
    return float((one.double() - other.double()).abs().max()) / scale


def measured(run: Run) -> dict[str, float]:
    """Return the metrics at the end of a run, without its speed."""
    return {name: value for name, value in run.record.metrics.last.items() if name != "examples_per_second"}


def batches(loader: Any, most: int) -> list[Any]:
    """Return the first batches of a loader."""
    return list(islice(iter(loader), most))


def only_loader(training: Training, name: str) -> Any:
    """Return the loader that the data module's method of this name gives.

    Raises:
        NotCheckable: there is none, or there are several.
    """
    training.data.trainer = training.trainer
    loader = getattr(training.data, name)() if is_overridden(name, training.data) else []
    if isinstance(loader, Sequence | Mapping) and not len(loader):
        raise NotCheckable(f"there is no {name}")
    if isinstance(loader, Sequence) and len(loader) == 1:
        return loader[0]
    if isinstance(loader, Sequence | Mapping):
        raise NotCheckable(f"{name} gives several loaders")
    return loader


def inputs_of(batch: Any) -> Tensor:
    """Return the inputs of a batch.

    Raises:
        NotCheckable: a batch is not a tensor, or a pair that begins with one.
    """
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(first, Tensor):
        raise NotCheckable("a batch does not begin with a tensor")
    return first


def labels_of(batch: Any) -> Tensor:
    """Return the labels of a batch: int64 (N,).

    Raises:
        NotCheckable: a batch is not a pair whose second part they are.
    """
    labels = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    if not (isinstance(labels, Tensor) and labels.ndim == 1 and labels.dtype == torch.int64):
        raise NotCheckable("batches are not pairs of inputs and classes")
    return labels


def examples_of(batch: Any) -> Iterator[bytes]:
    """Yield each example's input as bytes."""
    inputs = inputs_of(batch).cpu().contiguous()
    yield from (one.tobytes() for one in inputs.reshape(len(inputs), -1).numpy())


def cut_anew(given: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """Split the examples of these batches into batches of other sizes.

    Raises:
        NotCheckable: they are not made of tensors with an entry for each example.
    """
    flat = [tree_flatten(batch) for batch in given]
    shape = flat[0][1]
    if any(other != shape for _, other in flat) or not all(isinstance(leaf, Tensor) for one, _ in flat for leaf in one):
        raise NotCheckable("batches are not made of tensors alone")
    if any(leaf.ndim == 0 or len(leaf) != len(leaves[0]) for leaves, _ in flat for leaf in leaves):
        raise NotCheckable("the tensors of a batch have no common first dimension")
    joined = [torch.cat(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True)]
    pieces = zip(*(leaf.split_with_sizes(list(sizes)) for leaf in joined), strict=True)
    return [tree_unflatten(list(piece), shape) for piece in pieces]
