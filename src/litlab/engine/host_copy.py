"""Brings the logged values of several steps from the device, and from all processes, to the host at once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed

from litlab.distributed import group
from litlab.engine.logged import LogOptions, Step


class HostCopy:
    """The values of some steps, on their way from the device."""

    def __init__(self, steps: list[Step], options: dict[str, LogOptions]) -> None:
        self.steps = steps
        values = torch.cat([step.gathered.values for step in steps if step.gathered.names] or [torch.empty(0)])
        if group.current_rank().world_size > 1:
            values, self.steps = _of_all_processes(values, steps, options)
        self.values = values.to("cpu", non_blocking=values.is_cuda)  # elsewhere nothing tells when they have arrived
        self.arrived: Any = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self.arrived is not None:
            self.arrived.record()

    def done(self) -> bool:
        """Whether they can be read without waiting."""
        return self.arrived is None or bool(self.arrived.query())

    def read(self) -> Iterator[tuple[Step, dict[str, float]]]:
        """Each step with all that it logged; waits for the device if need be."""
        if self.arrived is not None:
            group.wait_for_device(self.arrived)
        values = iter(self.values.tolist())
        for step in self.steps:
            arrived = {name: next(values) for name in step.gathered.names}
            yield step, {**step.rates, **step.gathered.numbers, **arrived}


def _of_all_processes(values: Tensor, steps: list[Step], options: dict[str, LogOptions]) -> tuple[Tensor, list[Step]]:
    """What the processes have logged in the same steps, as if one had seen all examples; the steps with all weights."""
    logged = [(step, name) for step in steps for name in step.gathered.names]
    weights = values.new_tensor([step.gathered.weights.get(name, step.share) for step, name in logged])
    own = torch.stack([values, weights])
    everyones = [torch.empty_like(own) for _ in range(group.current_rank().world_size)]
    with group.noticing_loss():
        distributed.all_gather(everyones, own)
    all_values, all_weights = torch.stack(everyones, dim=1)
    counted = all_weights > 0
    reduced = {
        "mean": (all_values * all_weights).sum(0) / all_weights.sum(0),
        "sum": all_values.where(counted, 0).sum(0),
        "max": all_values.where(counted, -torch.inf).amax(0),
        "min": all_values.where(counted, torch.inf).amin(0),
    }
    kinds = [list(reduced).index(options[name].reduction if name in options else "mean") for _, name in logged]
    chosen = (
        torch.stack(list(reduced.values())).gather(0, torch.tensor([kinds], device=values.device)) if kinds else own
    )
    return chosen[0], _with_all_weights(steps)


def _with_all_weights(steps: list[Step]) -> list[Step]:
    """The steps with the sums of the weights that each process has given."""
    if not any(step.gathered.weights for step in steps):
        return steps
    everyones = group.all_gather([step.gathered.weights for step in steps])
    sums = [{name: sum(own[name] for own in owns) for name in owns[0]} for owns in zip(*everyones, strict=True)]
    return [
        replace(step, gathered=replace(step.gathered, weights=weights))
        for step, weights in zip(steps, sums, strict=True)
    ]
