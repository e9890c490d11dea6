"""When a training step is captured as a CUDA graph, when it is done by that graph, and when without."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from traceback import clear_frames
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only

from litlab.distributed.group import current_rank
from litlab.engine.graphs.captured import CapturedStep, Results, Signature, batch_obstacle, signature
from litlab.engine.graphs.cuda import CudaGraph
from litlab.engine.graphs.fingerprint import Constants, Fingerprint, difference
from litlab.engine.graphs.rates import DeviceRates
from litlab.engine.graphs.selfcheck import Snapshot, Tolerance, Verdict, check
from litlab.engine.graphs.watch import watching
from litlab.engine.metrics import StepMetrics
from litlab.engine.nonfinite import skips_on_device
from litlab.engine.optimization import Batch, DirectOptimization

log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps with a batch of one shape before it is captured, in which libraries and the optimizer allocate what they keep;
as in the PyTorch manual."""

MISFITS = 8
"""Batches of another shape in a row after which the shape that comes most may be another one."""

CAPTURES = 5
"""Captures for which the shape of the batches has changed after which they are taken to change without end."""


class GraphedOptimization(DirectOptimization):
    """Forward, backward and optimizer step of a batch as one CUDA graph; where that cannot be, one after the other.

    A graph repeats kernels, not Python. Before the capture a step is watched for what Python decides in it; before each
    execution the graph's assumptions are compared with the training; and the 1st, 2nd, 4th, 8th … step of a graph, and
    its first one in an epoch, is also done without it, and that result counts.

    Attributes:
        captured: the step's graph, while there is one.
        obstacle: why there is none, nor will be; None as long as there may be one.
        replayed: how many steps were done by a graph alone.
        checked: how many were done both ways.
    """

    def __init__(self, trainer: Trainer, metrics: StepMetrics) -> None:
        super().__init__(trainer, metrics)
        self.captured: CapturedStep | None = None
        self.obstacle: str | None = None
        self.replayed = self.checked = 0
        self._optimizer: Optimizer | None = None
        self._rates: DeviceRates | None = None
        self._graph: CudaGraph | None = None
        self._warm_ups: Counter[Signature] = Counter()
        self._constants: Constants | None = None
        self._seen: str | None = None
        self._told: set[str] = set()

    def prepare(self, obstacle: str | None) -> None:
        """Get ready for an epoch; begin anew if the optimizer is another one."""
        if self._optimizer is not self.trainer.optimizers[0]:
            self._release()
            self._optimizer = self.trainer.optimizers[0]
            self.obstacle = None
            self._rates = None
            self._captures = 0
        self._is_check_due = True
        if obstacle:
            self._told.add(f"no CUDA graph: {obstacle}")  # the loop has said so
        super().prepare(obstacle)

    def begin_execution(self) -> None:
        """Look whether a step can be captured, or whether the graph still holds."""
        super().begin_execution()
        assert self._optimizer is not None  # noqa: S101 (`prepare` comes first)
        self._hindrance = self.obstacle or self._static_obstacle(self._optimizer)
        if self._hindrance:
            self._release()
            self._tell(f"no CUDA graph: {self._hindrance}")
        elif self._rates is None:
            self._rates = DeviceRates(self._optimizer)
        if self.captured is None:
            return
        now = Fingerprint.of(self.trainer, self._optimizer)
        before, self.captured.fingerprint = self.captured.fingerprint, now
        if changed := difference(before.fixed, now.fixed):
            self._release(f"{changed} has changed")
        elif changed := difference(before.noticed, now.noticed):
            self.captured.suspect, self._is_check_due = changed, True

    def execute(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> Results:
        """Do the step; its outputs, and what the module has logged."""
        with self._rates.applied() if self._rates else nullcontext():
            return super().execute(optimizer, batch_idx, kwargs)

    def step(self, optimizer: Optimizer, kwargs: Batch) -> Results:
        """Do the step by its graph, if that is possible, without counting it."""
        if self._hindrance:
            return super().step(optimizer, kwargs)
        if self.captured and self.captured.constants.have_changed(optimizer):
            self._release("the optimizer's settings have changed")
        if self.captured is None:
            return self._warm_up(optimizer, kwargs)
        parts = self.captured.parts(kwargs["batch"])
        if parts is None:
            return self._beside_graph(optimizer, kwargs)
        self._misfits = 0
        return self._by_graph(self.captured, parts, optimizer, kwargs)

    def close(self) -> None:
        """Give the graph's memory back."""
        if self.captured and self._optimizer:
            self._release()
            self._optimizer.zero_grad()  # the gradients are in that memory

    def summary(self) -> str | None:
        """Return in words how many steps were done by a graph, or why none was; None where there are no graphs."""
        if CudaGraph.obstacle(self.trainer.strategy.root_device):
            return None
        if not self.replayed + self.checked:
            return f"none: {self._hindrance}" if self._hindrance else "none: no batches of one shape came often enough"
        ended = f"; then none: {self._hindrance}" if self._hindrance else ""
        return f"{self.replayed + self.checked} steps, of which {self.checked} were checked{ended}"

    def _static_obstacle(self, optimizer: Optimizer) -> str | None:
        """Return why no step of this training can be captured."""
        is_waiting = self.metrics.skips and not skips_on_device(self.trainer.lightning_module, optimizer)
        return (
            self._obstacle
            or CudaGraph.obstacle(self.trainer.strategy.root_device)
            or self.detour
            or ("several processes train together" if current_rank().world_size > 1 else None)
            or DeviceRates.obstacle(optimizer)
            or ("trainer.on_nan=skip needs optimizer.fused=true for that" if is_waiting else None)
        )

    def _warm_up(self, optimizer: Optimizer, kwargs: Batch) -> Results:
        """Do the step without a graph; capture it if its batches have come often enough."""
        if reason := self.metrics.obstacle or batch_obstacle(kwargs["batch"], self.trainer.strategy.root_device):
            self._give_up(reason)
            return super().step(optimizer, kwargs)
        kind = signature(kwargs["batch"])
        self._warm_ups[kind] += 1
        if self._warm_ups[kind] > WARM_UP:
            return self._capture(optimizer, kwargs)
        self._graph = self._graph or CudaGraph()
        with self._graph.beside():
            if self._warm_ups[kind] < WARM_UP:
                return super().step(optimizer, kwargs)
            results = self._watched(self._graph, optimizer, kwargs)
        self._constants = Constants(optimizer)
        if self._seen:
            self._give_up(self._seen)
        return results

    def _watched(self, graph: CudaGraph, optimizer: Optimizer, kwargs: Batch) -> Results:
        """Do the step without a graph, and note why a graph cannot repeat it."""
        with watching(self.trainer, optimizer, graph, kwargs) as watched:
            results = super().step(optimizer, watched.arguments)
        self._seen = watched.reason
        return results

    def _capture(self, optimizer: Optimizer, kwargs: Batch) -> Results:
        """Record the step, then do it for the first time."""
        if self._constants is None or self._constants.have_changed(optimizer):
            self._give_up("the schedule changes more than the learning rate")
            return super().step(optimizer, kwargs)
        graph, self._graph = self._graph or CudaGraph(), None
        step = super().step
        try:
            captured = CapturedStep(graph, kwargs["batch"], lambda own: step(optimizer, kwargs | {"batch": own}))
        except Exception as error:
            first = _first(error)
            self._give_up(f"the step cannot be captured: {str(first).partition(chr(10))[0]}")
            clear_frames(first.__traceback__)  # they keep the loss, and it the capture's stream in the autograd graph
            return step(optimizer, kwargs)
        captured.fingerprint, captured.constants = Fingerprint.of(self.trainer, optimizer), self._constants
        self.captured, self._misfits = captured, 0
        return self._by_graph(captured, tree_leaves(kwargs["batch"]), optimizer, kwargs)

    def _beside_graph(self, optimizer: Optimizer, kwargs: Batch) -> Results:
        """Do the step without the graph, whose batches have another shape."""
        self._misfits += 1
        if self._misfits == 2:  # in a row, since the last batch of an epoch is often smaller
            self._tell("no CUDA graph for batches of another shape than the captured one")
        if self._misfits < MISFITS:
            step = super().step
            return self._with_memory(lambda _: step(optimizer, _with_own_batch(kwargs)), optimizer, kwargs)
        self._captures += 1
        self._release()
        if self._captures == CAPTURES:
            self._give_up("the batches keep changing their shape")
        return self.step(optimizer, kwargs)

    def _by_graph(self, captured: CapturedStep, parts: list[Any], optimizer: Optimizer, kwargs: Batch) -> Results:
        captured.done += 1
        is_power_of_two = captured.done & (captured.done - 1) == 0
        if not (self._is_check_due or is_power_of_two):
            self.replayed += 1
            return captured.replay(parts)
        self._is_check_due = False
        return self._with_memory(partial(self._both_ways, captured, parts, optimizer, kwargs), optimizer, kwargs)

    def _both_ways(
        self, captured: CapturedStep, parts: list[Any], optimizer: Optimizer, kwargs: Batch, before: Snapshot
    ) -> Results:
        """Do the step by the graph and without, which counts; give the graph up if it does something else."""
        verdict = check(
            before,
            replay=lambda: captured.replay(parts),
            step=lambda: self._watched(captured.graph, optimizer, _with_own_batch(kwargs)),
            tolerance=Tolerance.of(str(self.trainer.precision)),
            batch_size=self.trainer.fit_loop.epoch_loop.batch_size,
        )
        self.checked += 1
        self._judge(captured, verdict)
        return verdict.results

    def _judge(self, captured: CapturedStep, verdict: Verdict) -> None:
        now, wrong = self.trainer.global_step, verdict.difference
        if self._seen:
            self._give_up(self._seen)
        elif wrong is None:
            captured.good, captured.suspect = now, None
        elif not verdict.repeatable:
            self._tell("a step gives other numbers when it is repeated, so its CUDA graph cannot be checked")
        elif captured.suspect:
            self._release(f"{captured.suspect} has changed")
        elif captured.good is None or captured.good + 1 == now:
            self._give_up(f"it would do something else than step {now}: {wrong}")
        else:
            self._give_up(f"it does something else than step {now}: {wrong}", logging.WARNING)
            log.warning("the steps %d to %d were done by that graph and may be wrong", captured.good + 1, now - 1)

    def _with_memory(self, do: Callable[[Snapshot], Results], optimizer: Optimizer, kwargs: Batch) -> Results:
        """Do a step that takes memory beside the graph's; if there is too little, do it without the graph."""
        before = None
        try:
            before = Snapshot(self.trainer, optimizer, self.captured.graph.generator)  # type: ignore[union-attr]
            return do(before)
        except torch.OutOfMemoryError:
            pass  # what has been allocated is freed when this block ends
        if before:
            before.restore()
        del before
        self._give_up("the device's memory does not hold a step beside the graph")
        return super().step(optimizer, kwargs)

    def _give_up(self, reason: str, level: int = logging.INFO) -> None:
        """Do without a graph from here on."""
        self.obstacle = self._hindrance = reason
        self._release()
        self._tell(f"no CUDA graph: {reason}", level)

    def _release(self, why: str | None = None) -> None:
        """Give the graph up, if there is one, to capture another after a new warm-up."""
        self._warm_ups.clear()
        self._graph = None
        if self.captured:
            captured, self.captured = self.captured, None
            captured.release()
        if why:
            log.info("the CUDA graph is captured again: %s", why)

    def _tell(self, message: str, level: int = logging.INFO) -> None:
        if message not in self._told:
            self._told.add(message)
            log.log(level, message)


def _with_own_batch(kwargs: Batch) -> Batch:
    """Return the arguments with a copy of the batch, so that a step that writes to its batch can be done again."""
    return kwargs | {"batch": tree_map_only(Tensor, Tensor.clone, kwargs["batch"])}


def _first(error: BaseException) -> BaseException:
    """Return what went wrong first: a capture that has failed raises further errors when it ends."""
    while error.__context__ is not None:
        error = error.__context__
    return error
