"""A step as a CUDA graph: all its kernels are started by one call, so that the GPU no longer waits for Python."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from litlab.engine.metrics import Gathered, StepMetrics
from litlab.engine.optimization import Batch, DirectOptimization

log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before the recording, in which libraries and optimizer allocate what they keep; as in the PyTorch manual."""


class CudaGraph:
    """Kernels, recorded once and then started together as often as one likes."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @staticmethod
    def obstacle(device: torch.device) -> str | None:
        """Why `device` cannot do this, if so."""
        return None if device.type == "cuda" else f"there are no CUDA graphs on the {device.type}"

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run the kernels in this block on the stream that records, as warming up requires."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the kernels in this block instead of running them."""
        # Other threads, such as one that pins batches, may go on meanwhile.
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            yield

    def replay(self) -> None:
        """Run what was recorded, on the same tensors."""
        self.graph.replay()


class GraphedOptimization(DirectOptimization):
    """Forward, backward and optimizer step of a batch as one CUDA graph; where that cannot be, as ever.

    The first steps, which warm up, and batches of another shape, such as an epoch's last, are never graphed. What
    Python does in a step, in hooks too, happens when the step is recorded and not again; only the batch, the learning
    rates and the state of the random generator are new at each step.
    """

    def __init__(self, trainer: Trainer, metrics: StepMetrics) -> None:
        super().__init__(trainer, metrics)
        self.gave_up = False
        self.warm_ups = 0
        self.recorded: RecordedStep | None = None

    def execute(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], Gathered]:
        """Train on the batch; its outputs, and what the module has logged."""
        obstacle = None if self.gave_up else self._obstacle(optimizer)
        if obstacle:
            log.info("steps run one by one: %s", obstacle)
            self.gave_up, self.recorded = True, None
        if self.gave_up:
            return super().execute(optimizer, batch_idx, kwargs)
        if self.warm_ups == 0:
            self.graph = CudaGraph()
        if self.recorded is None and self.warm_ups == WARM_UP:
            return self._record(optimizer, batch_idx, kwargs)
        if self.recorded is not None and self.recorded.fits(kwargs["batch"]):
            progress = self.optim_progress.optimizer.step
            progress.increment_ready()
            progress.increment_completed()
            return self.recorded.replay(optimizer, kwargs["batch"])
        self.warm_ups = min(self.warm_ups + 1, WARM_UP)
        with self.graph.beside():
            return super().execute(optimizer, batch_idx, kwargs)

    def _obstacle(self, optimizer: Optimizer) -> str | None:
        if self.recorded is not None and self.recorded.constants != _constants(optimizer):
            return "the schedule changes more than the learning rate"
        return CudaGraph.obstacle(self.trainer.strategy.root_device) or self.detour or self.metrics.obstacle

    def _record(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], Gathered]:
        """Record the step, then do it for the first time."""
        recorded = RecordedStep(self.graph, kwargs["batch"], optimizer)
        progress = copy.deepcopy(self.optim_progress)
        try:
            with recorded.recording(optimizer):
                results = super().execute(optimizer, batch_idx, kwargs | {"batch": recorded.batch})
        except RuntimeError as error:
            self.optim_progress = progress
            self.metrics.gather()
            log.info("steps run one by one: they cannot be captured as a CUDA graph: %s", str(error).partition("\n")[0])
            self.gave_up = True
            return super().execute(optimizer, batch_idx, kwargs)
        recorded.outputs, recorded.gathered = results
        self.recorded = recorded
        return recorded.replay(optimizer, kwargs["batch"])


class RecordedStep:
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

    @contextmanager
    def recording(self, optimizer: Optimizer) -> Iterator[None]:
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
            with self.graph.recording():
                yield
        finally:  # numbers again: for schedules, curves and checkpoints
            for group, settings in zip(groups, kept, strict=True):
                group.update(settings)

    def fits(self, batch: Any) -> bool:
        """Whether the batch has the recorded one's shape."""
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
    """What a graph keeps as it was when it was recorded."""
    moving = ("params", "lr", "capturable")
    return [{key: group[key] for key in group if key not in moving} for group in optimizer.param_groups]


def _alike(new: Any, own: Any) -> bool:
    if isinstance(own, Tensor):
        return isinstance(new, Tensor) and new.shape == own.shape and new.dtype == own.dtype
    return bool(new == own)
