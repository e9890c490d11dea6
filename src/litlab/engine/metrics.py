"""What a module logs at each step, gathered without waiting for the device at each step."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from numbers import Number
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric


@dataclass(frozen=True)
class Place:
    """Where the values of one name go."""

    on_step: bool = True
    on_epoch: bool = False
    logger: bool = True
    prog_bar: bool = False
    suffixes: bool = False

    def name(self, name: str, suffix: str) -> str:
        """Lightning's name of the curve; it tells the curve of the steps from that of the epochs if there are both."""
        return f"{name}_{suffix}" if self.suffixes else name


@dataclass
class Gathered:
    """What one step has logged: plain numbers, and values that are still on the device.

    Attributes:
        weights: what counts in the mean over an epoch instead of the size of the batch.
    """

    numbers: dict[str, float]
    weights: dict[str, int]
    names: tuple[str, ...]
    values: Tensor


@dataclass
class Step:
    """A batch that is done; with accumulated gradients only some end with a step of the optimizer."""

    index: int
    batch_size: int
    stepped: bool
    gathered: Gathered


class Transfer:
    """The values of some steps, on their way from the device."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        values = torch.cat([step.gathered.values for step in steps if step.gathered.names] or [torch.empty(0)])
        self.values = values.to("cpu", non_blocking=True)
        self.arrived: Any = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self.arrived is not None:
            self.arrived.record()

    def done(self) -> bool:
        """Whether they can be read without waiting."""
        return self.arrived is None or bool(self.arrived.query())

    def read(self) -> Iterator[tuple[Step, dict[str, float]]]:
        """Each step with all that it logged; waits for the device if need be."""
        if self.arrived is not None:
            self.arrived.synchronize()
        values = iter(self.values.tolist())
        for step in self.steps:
            arrived = {name: next(values) for name in step.gathered.names}
            yield step, {**step.gathered.numbers, **arrived}


class StepMetrics(Callback):
    """Brings what `training_step` logs to the loggers: each step's values, some steps at once, when they have arrived.

    While a step runs, `self.log` only keeps the value. What Lightning shows in the progress bar and offers to other
    callbacks are the newest values that have arrived; at the end of an epoch, and always on a CPU, the last step's.

    Attributes:
        obstacle: why what the module logs cannot be part of a CUDA graph, once it has logged such a thing.
    """

    def __init__(self) -> None:
        self.obstacle: str | None = None
        self._logged: dict[str, Tensor | float] = {}
        self._weights: dict[str, int] = {}
        self._places: dict[str, Place] = {"learning_rate": Place()}
        self._steps: list[Step] = []
        self._transfers: deque[Transfer] = deque()
        self._sums: dict[str, tuple[float, int]] = {}

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

    def gather(self) -> Gathered:
        """What the step has logged."""
        logged, self._logged = self._logged, {}
        tensors = {name: value for name, value in logged.items() if isinstance(value, Tensor)}
        values = torch.stack([value.float().squeeze() for value in tensors.values()]) if tensors else torch.empty(0)
        numbers = {name: value for name, value in logged.items() if not isinstance(value, Tensor)}
        weights, self._weights = self._weights, {}
        return Gathered(numbers, weights, tuple(tensors), values)

    def add(self, index: int, batch_size: int, stepped: bool, learning_rate: float, gathered: Gathered) -> None:
        """Count a batch as done; it was part of the step with this index, the first being 0, or ended it."""
        numbers = {"learning_rate": learning_rate, **gathered.numbers}
        self._steps.append(Step(index, batch_size, stepped, replace(gathered, numbers=numbers)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the execution's steps off and write those that have arrived; at the end, all."""
        ends = trainer.fit_loop.epoch_loop._is_training_done or trainer.should_stop
        newest = self._write(trainer, wait=ends)
        for name, value in newest.items():
            place = self._places[name]
            if place.on_step:  # a tensor on the CPU, so that Lightning need not wait for a copy on the device
                shown = torch.tensor(value)
                pl_module.log(place.name(name, "step"), shown, prog_bar=place.prog_bar, logger=False, batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what there is: a checkpoint may be made now."""
        self._write(trainer, wait=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand Lightning the means over the epoch."""
        self._write(trainer, wait=True)
        for name, (total, weight) in self._sums.items():
            place = self._places[name]
            mean = torch.tensor(total / weight)
            pl_module.log(place.name(name, "epoch"), mean, prog_bar=place.prog_bar, logger=place.logger, batch_size=1)
            if place.suffixes:  # what a callback monitors has no suffix
                pl_module.log(name, mean, logger=False, batch_size=1)
        self._sums = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is: it shows what led there."""
        with suppress(RuntimeError):  # of a device that has failed; its first error counts
            self._write(trainer, wait=True)

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
        if not isinstance(value, (Metric, Number)) and not (isinstance(value, Tensor) and value.numel() == 1):
            lightnings(name, value, prog_bar, logger, on_step, on_epoch, **others)  # it says what is wrong with that
            return
        place = Place(
            on_step=on_step is not False,
            on_epoch=bool(on_epoch),
            logger=logger is not False,
            prog_bar=prog_bar,
            suffixes=on_step is not False and bool(on_epoch),
        )
        is_mean = others.get("reduce_fx", "mean") in ("mean", torch.mean) and not others.get("sync_dist")
        if isinstance(value, Metric) or (place.on_epoch and not is_mean):
            # Lightning accumulates these, and resets them when the epoch ends, even if nobody asked for its value.
            self.obstacle = f"{name} is accumulated over the epoch by Python code"
            shown = logger if place.on_epoch else False
            epoch_name = place.name(name, "epoch")
            lightnings(epoch_name, value, prog_bar=prog_bar, logger=shown, on_step=False, on_epoch=True, **others)
            place = replace(place, on_epoch=False)
            value = value._forward_cache if isinstance(value, Metric) else value
        if isinstance(value, Tensor) and value.device == module.device:
            self._logged[name] = value.detach().clone()  # what it is now, not after the step
        elif value is not None:
            self._logged[name] = float(value)
            self.obstacle = f"{name} is logged as a number that Python knows, which a graph would not change"
        self._places[name] = place
        if others.get("batch_size"):
            self._weights[name] = others["batch_size"]

    def _write(self, trainer: Trainer, wait: bool) -> dict[str, float]:
        """Write the steps that have arrived, or all of them; the newest one's values."""
        if self._steps:
            self._transfers.append(Transfer(self._steps))
            self._steps = []
        newest: dict[str, float] = {}
        while self._transfers and (wait or self._transfers[0].done()):
            for step, newest in self._transfers.popleft().read():
                self._write_step(trainer, step, newest)
        if newest and wait:  # to save means to wait for the disk
            for logger in trainer.loggers:
                logger.save()
        return newest

    def _write_step(self, trainer: Trainer, step: Step, values: dict[str, float]) -> None:
        curves: dict[str, float] = {"epoch": trainer.current_epoch}
        for name, value in values.items():
            place = self._places[name]
            if place.on_epoch:
                total, weight = self._sums.get(name, (0.0, 0))
                count = step.gathered.weights.get(name, step.batch_size)
                self._sums[name] = (total + value * count, weight + count)
            if place.on_step and place.logger:
                curves[place.name(name, "step")] = value
        if step.stepped and (step.index + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_metrics(curves, step=step.index)
