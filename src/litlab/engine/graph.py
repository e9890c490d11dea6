"""A step as a CUDA graph: all its kernels are started by one call, so that the GPU no longer waits for Python."""

import copy
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from litlab.engine.group import place
from litlab.engine.metrics import Gathered, StepMetrics
from litlab.engine.nonfinite import drops_on_device
from litlab.engine.optimization import Batch, DirectOptimization

log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before the recording, in which libraries and optimizer allocate what they keep; as in the PyTorch manual."""


class CudaGraph:
    """Kernels, captured once and then started together as often as one likes."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @staticmethod
    def obstacle(device: torch.device) -> str | None:
        """Why `device` cannot do this, if so."""
        return None if device.type == "cuda" else f"this is a {device.type}"

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run the kernels in this block on the stream that captures, as warming up requires."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Record the kernels in this block instead of running them; if that fails, all is as it was before."""
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            # The outer stream is for a capture that ends in an error, after which its own would stay the current one;
            # other threads, such as one that pins batches, may go on meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                yield
        except Exception:
            self.graph.reset()
            generator.graphsafe_set_state(before)
            raise

    def replay(self) -> None:
        """Run what was recorded, on the same tensors."""
        self.graph.replay()


class GraphedOptimization(DirectOptimization):
    """Forward, backward and optimizer step of a batch as one CUDA graph; where that cannot be, as ever.

    The first steps, which warm up, and batches of another shape, such as an epoch's last, are never graphed. What
    Python does in a step happens when the step is captured and not again; only the batch, the learning rates and the
    state of the device's random generator are new at each step.
    """

    def __init__(self, trainer: Trainer, metrics: StepMetrics) -> None:
        super().__init__(trainer, metrics)
        self.optimizer: Optimizer | None = None

    def prepare(self, obstacle: str | None) -> None:
        """Begin anew, before an epoch, if the optimizer is another one."""
        super().prepare(obstacle)
        if self.optimizer is not self.trainer.optimizers[0]:
            self.optimizer = self.trainer.optimizers[0]
            self.captured: CapturedStep | None = None
            self.gave_up = False
            self.warm_ups = self.misfits = 0
        if obstacle:  # the loop has told it
            self.gave_up, self.captured = True, None

    def execute(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], Gathered]:
        """Train on the batch; its outputs, and what the module has logged."""
        obstacle = None if self.gave_up else self._obstacle(optimizer, kwargs["batch"])
        if obstacle:
            self._give_up(obstacle)
        if self.gave_up:
            return super().execute(optimizer, batch_idx, kwargs)
        if self.warm_ups < WARM_UP:
            return self._warm_up(optimizer, batch_idx, kwargs)
        if self.captured is None:
            return self._capture(optimizer, batch_idx, kwargs)
        if not self.captured.fits(kwargs["batch"]):
            self.misfits += 1
            if self.misfits == 2:  # in a row, since the last batch of an epoch is often shorter
                log.info("no CUDA graph for batches of another shape than the first")
            return super().execute(optimizer, batch_idx, kwargs)
        if self.misfits == 1:
            self.misfits = 0
        progress = self.optim_progress.optimizer.step
        progress.increment_ready()
        progress.increment_completed()
        return self.captured.replay(optimizer, kwargs["batch"])

    def _obstacle(self, optimizer: Optimizer, batch: Any) -> str | None:
        if self.captured is not None:
            changed = self.captured.constants != _constants(optimizer)
            return self.detour or ("the schedule changes more than the learning rate" if changed else None)
        unknown = [part for part in pytree.tree_leaves(batch) if not isinstance(part, (Tensor, float, int, str))]
        return (
            CudaGraph.obstacle(self.trainer.strategy.root_device)
            or self.detour
            or ("several processes train together" if place().count > 1 else None)
            or self.metrics.obstacle
            or self._waits(optimizer)
            or (f"a batch holds a {type(unknown[0]).__name__}" if unknown else None)
        )

    def _waits(self, optimizer: Optimizer) -> str | None:
        if self.metrics.skips and not drops_on_device(self.trainer.lightning_module, optimizer):
            return "trainer.on_nan=skip needs optimizer.fused=true for that"
        return None

    def _give_up(self, reason: str) -> None:
        log.info("no CUDA graph: %s", reason)
        self.gave_up, self.captured = True, None

    def _warm_up(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], Gathered]:
        if self.warm_ups == 0:
            self.graph = CudaGraph()
        self.warm_ups += 1
        before = _drawn_on_cpu(self.trainer.strategy.root_device)
        with self.graph.beside():
            results = super().execute(optimizer, batch_idx, kwargs)
        if _drawn_on_cpu(self.trainer.strategy.root_device) != before:
            self._give_up("a step draws random numbers on the CPU")
        return results

    def _capture(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], Gathered]:
        """Record the step, then do it for the first time."""
        captured = CapturedStep(self.graph, kwargs["batch"], optimizer)
        progress = copy.deepcopy(self.optim_progress)
        try:
            with captured.capturing(optimizer):
                results = super().execute(optimizer, batch_idx, kwargs | {"batch": captured.batch})
        except Exception as error:
            self.optim_progress = progress
            self._give_up(f"the step cannot be captured: {str(_first(error)).partition(chr(10))[0]}")
            return super().execute(optimizer, batch_idx, kwargs)
        captured.outputs, captured.gathered = results
        self.captured = captured
        return captured.replay(optimizer, kwargs["batch"])


class CapturedStep:
    """A step whose batch, learning rates and results are always in the same tensors."""

    outputs: dict[str, Any]
    gathered: Gathered

    def __init__(self, graph: CudaGraph, batch: Any, optimizer: Optimizer) -> None:
        self.graph = graph
        leaves, self.structure = pytree.tree_flatten(batch)
        self.leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.batch = pytree.tree_unflatten(self.leaves, self.structure)
        self.rates = [torch.tensor(float(group["lr"]), device=_device(group)) for group in optimizer.param_groups]
        self.constants = _constants(optimizer)
        for parameter, state in optimizer.state.items():
            if isinstance(state.get("step"), Tensor):  # optimizers that are not fused count their steps on the CPU
                state["step"] = state["step"].to(parameter.device)

    @contextmanager
    def capturing(self, optimizer: Optimizer) -> Iterator[None]:
        """Record the block; meanwhile the optimizer takes its learning rates from tensors."""
        groups: list[dict[str, Any]] = optimizer.param_groups
        kept: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "capturable") if key in group} for group in groups
        ]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            with self.graph.capturing():
                yield
        finally:  # numbers again: for schedules, curves and checkpoints
            for group, settings in zip(groups, kept, strict=True):
                group.update(settings)

    def fits(self, batch: Any) -> bool:
        """Whether the batch has the captured one's shape."""
        leaves, structure = pytree.tree_flatten(batch)
        return structure == self.structure and all(map(_alike, leaves, self.leaves))

    def replay(self, optimizer: Optimizer, batch: Any) -> tuple[dict[str, Any], Gathered]:
        """Do the step with this batch and the optimizer's present learning rates."""
        for own, new in zip(self.leaves, pytree.tree_leaves(batch), strict=True):
            if isinstance(own, Tensor):
                own.copy_(new, non_blocking=True)
        for rate, group in zip(self.rates, optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()
        # The values are copied, because the next replay writes over them.
        return self.outputs, replace(self.gathered, values=self.gathered.values.clone())


def _device(group: dict[str, Any]) -> torch.device:
    device: torch.device = group["params"][0].device
    return device


def _constants(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What a graph keeps as it was when it was captured."""
    moving = ("params", "lr", "capturable")
    return [{key: group[key] for key in group if key not in moving} for group in optimizer.param_groups]


def _alike(new: Any, own: Any) -> bool:
    if isinstance(own, Tensor):
        return isinstance(new, Tensor) and new.shape == own.shape and new.dtype == own.dtype
    return bool(new == own)


def _drawn_on_cpu(device: torch.device) -> tuple[Any, ...]:
    """States of the random generators that a graph does not know: Python's, NumPy's and, beside a GPU, the CPU's."""
    on_cpu = torch.get_rng_state().tolist() if device.type != "cpu" else []
    return random.getstate(), str(np.random.get_state()), on_cpu


def _first(error: BaseException) -> BaseException:
    """What went wrong first: a capture that has failed raises further errors when it ends."""
    while error.__context__ is not None:
        error = error.__context__
    return error
