"""What a module logs at each step, gathered without waiting for the device at each step."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from numbers import Number
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric

from litlab.distributed import group
from litlab.engine.host_copy import HostCopy
from litlab.engine.logged import LOSS, REDUCTIONS, LoggedValues, LogOptions, Step, learning_rates
from litlab.errors import TrainingError, UserError

log = logging.getLogger(__name__)


class StepMetrics(Callback):
    """Brings what `training_step` logs to the loggers: each step's values, some steps at once, when they have arrived.

    While a step runs, `self.log` only keeps the value. What Lightning shows in the progress bar and offers to other
    callbacks are the newest values that have arrived; at the end of an epoch, and always on a CPU, the last step's.
    The loss comes along, so that one that is not a number is noticed without waiting for the device.

    Args:
        skips: whether batches with such a loss are dropped; otherwise they end the training.

    Attributes:
        obstacle: why what the module logs cannot be part of a CUDA graph, once it has logged such a thing.
        skipped: how many batches were dropped.
    """

    def __init__(self, skips: bool = False) -> None:
        self.skips = skips
        self.skipped = 0
        self.obstacle: str | None = None
        self._logged: dict[str, Tensor | float] = {}
        self._weights: dict[str, float] = {}
        self._options: dict[str, LogOptions] = {"gradient_norm": LogOptions()}
        self._steps: list[Step] = []
        self._transfers: deque[HostCopy] = deque()
        self._epoch: dict[str, tuple[float, float]] = {}
        self._metrics: dict[str, tuple[str, Metric]] = {}
        self._restored: dict[str, dict[str, Any]] = {}

    @property
    def names(self) -> Set[str]:
        """Under which the training has logged, as its curves are named."""
        every = self._options.items()
        return {
            options.name(name, kind) for name, options in every for kind in ("step", "epoch")
        } | self._options.keys()

    def state_dict(self) -> dict[str, Any]:
        """What the epoch's steps have come to so far."""
        return {
            "skipped": self.skipped,
            "places": {name: asdict(options) for name, options in self._options.items()},
            "epoch": {name: list(total) for name, total in self._epoch.items()},
            "metrics": {
                name: {"path": path, "state": _state(metric), "updates": metric._update_count}
                for name, (path, metric) in self._metrics.items()
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epoch so far; the module's metrics get their state when the training starts."""
        self.skipped = state_dict["skipped"]
        self._options |= {name: LogOptions(**options) for name, options in state_dict["places"].items()}
        self._epoch = {name: (value, weight) for name, (value, weight) in state_dict["epoch"].items()}
        self._restored = state_dict["metrics"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the module's metrics the state that a checkpoint has of them."""
        for name, kept in self._restored.items():
            metric = pl_module.get_submodule(kept["path"])
            if not isinstance(metric, Metric) or kept["state"].keys() != metric.metric_state.keys():
                raise UserError(f"the checkpoint is of another module: {kept['path']} is not its metric")
            if any(
                isinstance(kept["state"][key], Tensor) != isinstance(metric.metric_state[key], Tensor)
                for key in kept["state"]
            ):
                raise UserError(f"the checkpoint is of another module: {kept['path']} has another state")
            for key, value in kept["state"].items() if group.is_rank_zero() else ():  # it is that of all processes
                setattr(metric, key, apply_to_collection(value, Tensor, Tensor.to, device=pl_module.device))
            metric._update_count = kept["updates"]
            self._metrics[name] = kept["path"], metric
        self._restored = {}

    @contextmanager
    def collecting(self, module: LightningModule) -> Iterator[None]:
        """While this lasts, one step, `module.log` leads here."""
        module.log = partial(self._log, module, module.log)  # type: ignore[method-assign]
        try:
            yield
        except BaseException:  # a step that failed has logged nothing
            self._logged, self._weights = {}, {}
            raise
        finally:
            del module.log

    def note(self, name: str, value: Tensor) -> None:
        """Take a value of the step that the module itself does not log."""
        self._logged[name] = value

    def gather(self, loss: Tensor | None) -> LoggedValues:
        """What the step has logged, and its loss, if it has one."""
        logged, self._logged = self._logged, {}
        if loss is not None:
            logged[LOSS] = loss
        if group.current_rank().world_size > 1:  # plain numbers are to be brought together, too
            device = next((value.device for value in logged.values() if isinstance(value, Tensor)), None)
            logged = {name: torch.as_tensor(value, device=device) for name, value in logged.items()}
        tensors = {name: value for name, value in logged.items() if isinstance(value, Tensor)}
        values = torch.stack([value.float().squeeze() for value in tensors.values()]) if tensors else torch.empty(0)
        numbers = {name: float(value) for name, value in logged.items() if name not in tensors}
        weights, self._weights = self._weights, {}
        return LoggedValues(numbers, weights, tuple(tensors), values)

    def add(self, step: Step) -> None:
        """Count a batch as done; it was part of the step with its index, the first being 0, or ended it."""
        for name in step.rates:
            self._options.setdefault(name, LogOptions())
        self._steps.append(step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the execution's steps off and write those that have arrived; at the end, all."""
        ends = trainer.fit_loop.epoch_loop._is_training_done or trainer.should_stop
        shown = trainer._logger_connector  # by way of `log` this would take as long as all else here
        for name, value in self.write(trainer, wait=ends).items():
            options = self._options[name]
            if not options.on_step:
                continue
            curve = options.name(name, "step")
            shown._callback_metrics[curve] = torch.tensor(value)
            if options.prog_bar:
                shown._progress_bar_metrics[curve] = value
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if not pl_module.automatic_optimization and (step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_metrics(learning_rates(trainer.optimizers), step=step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand Lightning what the steps of the epoch have come to."""
        self.write(trainer)
        for name, (total, weight) in self._epoch.items():
            options = self._options[name]
            value = torch.tensor(total / weight if options.reduction == "mean" else total)
            self._log_epoch(pl_module, name, value)
        for name, (_, metric) in self._metrics.items():
            if self._options[name].on_epoch:
                self._log_epoch(pl_module, name, metric)
            else:
                metric.reset()
        self._epoch, self._metrics = {}, {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is: it shows what led there."""
        if group.current_rank().world_size > 1:
            return  # it takes all processes, and the others may have had no error
        with suppress(RuntimeError, OSError, TrainingError):  # of a device or a disk, say; the first error counts
            self.write(trainer)

    def write(self, trainer: Trainer, wait: bool = True) -> dict[str, float]:
        """Write the steps that have arrived, or all of them and to the disk; the newest one's values.

        Raises:
            TrainingError: the loss of one is not a number.
        """
        if self._steps:
            self._transfers.append(HostCopy(self._steps, self._options))
            self._steps = []
        newest: dict[str, float] = {}
        each = wait or group.current_rank().world_size > 1  # what one process notices now, all do
        while self._transfers and (each or self._transfers[0].done()):
            for step, values in self._transfers.popleft().read():
                if self._has_finite_loss(step, values):
                    self._write_step(trainer, step, values)
                    newest = values
        if newest:
            for logger in trainer.loggers:
                logger.save()
        return newest

    def _has_finite_loss(self, step: Step, values: dict[str, float]) -> bool:
        loss = values.pop(LOSS, 0.0)
        if math.isfinite(loss):
            return True
        if not self.skips:
            self._transfers.clear()  # nothing that came after it means anything
            rates = " and ".join(f"{rate:g}" for rate in step.rates.values())
            raise TrainingError(f"the loss became {loss} at step {step.index}, with a learning rate of {rates}")
        if self.skipped == 0:
            log.warning("the loss became %s at step %d: such batches are dropped and counted", loss, step.index)
        self.skipped += 1
        return False

    def _log(
        self,
        module: LightningModule,
        lightnings: Callable[..., None],
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        **others: Any,
    ) -> None:
        """What `self.log` does while a step runs; takes what Lightning's own takes."""
        reduction = others.get("reduce_fx", "mean")
        reduction = reduction if isinstance(reduction, str) else reduction.__name__  # torch.max is as good as "max"
        is_number = isinstance(value, Number) or (isinstance(value, Tensor) and value.numel() == 1)
        path = _path(value, module) if isinstance(value, Metric) else None
        if reduction not in REDUCTIONS or not (is_number or path):
            lightnings(name, value, prog_bar, logger, on_step, on_epoch, **others)  # it says what is wrong with that
            return
        self._options[name] = LogOptions(
            on_step=on_step is not False,
            on_epoch=bool(on_epoch),
            logger=logger is not False,
            prog_bar=prog_bar,
            suffixes=on_step is not False and bool(on_epoch),
            reduction=reduction,
        )
        if isinstance(value, Metric):
            self.obstacle = f"{name} is accumulated over the epoch by Python code"
            self._metrics[name] = str(path), value
            value = value._forward_cache  # the batch's own
        if isinstance(value, Tensor) and value.device == module.device:
            self._logged[name] = value.detach().clone()  # what it is now, not after the step
        elif value is not None:
            self._logged[name] = float(value)
            self.obstacle = f"{name} is logged as a number that Python knows, which a graph would not change"
        if others.get("batch_size") is not None:
            self._weights[name] = others["batch_size"]

    def _log_epoch(self, module: LightningModule, name: str, value: Tensor | Metric) -> None:
        options = self._options[name]
        log = partial(module.log, value=value, batch_size=1, reduce_fx="max", sync_dist=True)  # all have the same
        log(options.name(name, "epoch"), prog_bar=options.prog_bar, logger=options.logger)
        if options.suffixes:  # what a callback monitors has no suffix
            log(name, logger=False)

    def _write_step(self, trainer: Trainer, step: Step, values: dict[str, float]) -> None:
        curves: dict[str, float] = {"epoch": trainer.current_epoch}
        for name, value in values.items():
            options = self._options[name]
            if options.on_epoch and name not in self._metrics:
                self._accumulate(name, value, step.gathered.weights.get(name, step.batch_size))
            if options.on_step and options.logger:
                curves[options.name(name, "step")] = value
        if step.stepped and (step.index + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_metrics(curves, step=step.index)

    def _accumulate(self, name: str, value: float, weight: float) -> None:
        """Add a step's value to those of its epoch."""
        reduction = self._options[name].reduction
        value = value * weight if reduction == "mean" else value
        if name in self._epoch:
            before, weight_before = self._epoch[name]
            value, weight = REDUCTIONS[reduction](before, value), weight_before + weight
        self._epoch[name] = value, weight


def _state(metric: Metric) -> dict[str, Any]:
    """What the metric has counted, in all processes."""
    with metric.sync_context():
        return metric.metric_state


def _path(metric: Metric, module: LightningModule) -> str | None:
    """Where in the module the metric is."""
    return next((path for path, part in module.named_modules() if part is metric), None)
