"""What is checked: a config, cut down to a few batches of its data."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR
from torch.utils._pytree import tree_flatten, tree_unflatten

from litlab.checks.verdict import NotCheckable
from litlab.config import schema
from litlab.errors import Pruned
from litlab.runs.checkpoint import read
from litlab.runs.run import Run
from litlab.training.build import Training, build_training
from litlab.training.train import train

BATCHES, EPOCHS = 6, 2
"""What a training is cut down to."""

VALIDATED = 2
"""Batches of a validation."""


class Watch(Callback):
    """Sees what happens to the weights in a training, and what it is told of the loss.

    Attributes:
        losses: of each batch.
        before, after: the parameters, at the beginning and at the end.
        with_gradient: names of parameters that had a gradient that is not zero.
        not_finite: names of those that had one that is not finite.
        steps: optimizer steps done.
        seconds: of the fastest batch.
        draws: whether a step draws random numbers.
        frozen: names of those that are not trained.
        optimizers: their classes; none where the module optimizes by itself.
        optimized: names of those that an optimizer has.
        schedules: how often each learning-rate schedule was stepped, and how often it should have been.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        self.with_gradient: set[str] = set()
        self.not_finite: set[str] = set()
        self.draws = False
        self.frozen: set[str] = set()
        self.optimizers: list[type] = []
        self.optimized: set[str] = set()
        self.steps = 0
        self.seconds, self._last = math.inf, math.nan
        self.schedules: dict[str, tuple[int, int]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights."""
        self.before = _copied(pl_module)
        self.optimizers = [type(one) for one in trainer.optimizers] if pl_module.automatic_optimization else []
        groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        for name, parameter in pl_module.named_parameters():
            if not parameter.requires_grad:
                self.frozen.add(name)
            if id(parameter) in optimized:
                self.optimized.add(name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the generator's state."""
        self._drawn = torch.get_rng_state()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the gradients."""
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                if parameter.grad.isfinite().all():
                    self.with_gradient |= {name} if parameter.grad.any() else set()
                else:
                    self.not_finite.add(name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss."""
        self.draws |= not torch.equal(self._drawn, torch.get_rng_state())
        now = time.perf_counter()
        self.seconds, self._last = min(self.seconds, now - self._last), now  # of the first there is no number
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self.losses.append(float(loss.detach()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights, and how far the schedules are."""
        self.after, self.steps = _copied(pl_module), trainer.global_step
        for config in trainer.lr_scheduler_configs if pl_module.automatic_optimization else ():
            schedule = config.scheduler
            if not isinstance(schedule, ReduceLROnPlateau | SWALR):  # the one waits, the other begins late
                times = trainer.global_step if config.interval == "step" else trainer.current_epoch
                self.schedules[type(schedule).__name__] = schedule.last_epoch, times // config.frequency


class StopAt(Callback):
    """Ends a training before a batch of its second epoch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop.

        Raises:
            Pruned: here.
        """
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            raise Pruned("stopped by the check")


class Subject:
    """The user's data and module, as a config has them.

    Args:
        settings: of a training.
        folder: where trainings leave their results; it is the caller's to remove.
    """

    def __init__(self, settings: schema.Train, folder: Path) -> None:
        self.told, self.folder = settings, folder
        self._numbers = count()

    def settings(self, *, monitored: bool = True, data: dict[str, Any] | None = None, **trainer: Any) -> schema.Train:
        """The settings of a training that is cut down; if it is not `monitored`, without what goes by a metric.

        Args:
            monitored: whether a metric says which weights are best, when to stop, how the learning rate goes on.
            data: of the data module.
            trainer: arguments of the Trainer.
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
        """Train; if it is stopped before that batch of the second epoch, go on in another Trainer."""
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
        """The data, the module with its first weights, and a Trainer, whose data are set up."""
        settings = self.settings(**trainer)
        seed_everything(settings.seed, workers=True, verbose=False)
        training = build_training(settings, Run.create(self._new_folder(), settings.seed))
        training.data.prepare_data()
        training.data.setup("fit")
        return training

    @cached_property
    def watched(self) -> Watch:
        """A training that was watched."""
        watch = Watch()
        self.train(self.settings(), watch)
        return watch

    def affordable(self, most: int, seconds: float) -> int:
        """How many steps fit into so many seconds, ten at least."""
        return int(min(most, max(10, seconds / self.watched.seconds)))

    @cached_property
    def whole(self) -> Run:
        """A training that was left alone."""
        return self.train(self.settings())

    def _new_folder(self) -> Path:
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        return folder


def _copied(module: LightningModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def final(run: Run) -> dict[str, Any]:
    """The weights, the optimizers' states and the schedules' at the end of a run."""
    checkpoint = read(run.folder / "checkpoints" / "last.ckpt")
    return {part: checkpoint[part] for part in ("state_dict", "optimizer_states", "lr_schedulers")}


def difference(one: Any, other: Any, tolerance: float = 0.0) -> str | None:
    """How two states differ, which are nested tensors and values; None where they do not.

    Args:
        one: a state.
        other: another one.
        tolerance: of tensors, as a share of the largest number in each.
    """
    ones, shape = tree_flatten(one)
    others, other_shape = tree_flatten(other)
    if shape != other_shape:
        return "what is kept is not the same"
    gaps = [_gap(a, b) for a, b in zip(ones, others, strict=True)]
    beyond = [gap for gap in gaps if not gap <= tolerance]
    return f"{len(beyond)} of {len(gaps)} tensors and values differ, by up to {max(beyond):.2g}" if beyond else None


def _gap(one: Any, other: Any) -> float:
    """The largest difference of two tensors as a share of the largest number; of two values, whether they differ."""
    if not isinstance(one, Tensor):
        return float(one != other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if torch.equal(one, other):
        return 0.0
    scale = max(float(one.abs().max()), 1e-12)
    return float((one.double() - other.double()).abs().max()) / scale


def measured(run: Run) -> dict[str, float]:
    """What the record says was measured at the end, without the speed."""
    return {name: value for name, value in run.record.metrics.last.items() if name != "examples_per_second"}


def batches(loader: Any, most: int) -> list[Any]:
    """The first batches of a loader."""
    return list(islice(iter(loader), most))


def only_loader(training: Training, name: str) -> Any:
    """The loader of that name.

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
    """What the network is given.

    Raises:
        NotCheckable: a batch is not a tensor, or a pair that begins with one.
    """
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(first, Tensor):
        raise NotCheckable("a batch does not begin with a tensor")
    return first


def labels_of(batch: Any) -> Tensor:
    """The classes of a batch's examples: int64 (N,).

    Raises:
        NotCheckable: a batch is not a pair whose second part they are.
    """
    labels = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    if not (isinstance(labels, Tensor) and labels.ndim == 1 and labels.dtype == torch.int64):
        raise NotCheckable("batches are not pairs of inputs and classes")
    return labels


def examples_of(batch: Any) -> Iterator[bytes]:
    """The bytes of each example's input."""
    inputs = inputs_of(batch).cpu().contiguous()
    yield from (one.tobytes() for one in inputs.reshape(len(inputs), -1).numpy())


def cut_anew(given: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """The examples of these batches in batches of other sizes.

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
