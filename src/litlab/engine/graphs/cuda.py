"""A CUDA graph: kernels that are captured once and then started by one call, so that the GPU never waits for Python."""

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch

WAIT = "called a synchronizing CUDA operation"
"""What PyTorch warns of in its synchronization debug mode."""


class CudaGraph:
    """The kernels of one block of code, with the memory that they use; everything private to torch.cuda is in here.

    Attributes:
        generator: the device's random generator, which advances in a replay as it does in the block itself.
    """

    _failed: ClassVar[list[torch.cuda.CUDAGraph]] = []
    """Graphs whose capture has failed; PyTorch may not survive their destruction."""

    _streams: ClassVar[dict[int, torch.cuda.Stream]] = {}
    """The stream of each device that captures; one for all graphs, since cuBLAS keeps memory for each stream."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.device = torch.cuda.current_device()
        self.stream = self._streams.setdefault(self.device, torch.cuda.Stream())  # type: ignore[no-untyped-call]
        self.generator = torch.cuda.default_generators[self.device]
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def obstacle(device: torch.device) -> str | None:
        """Return why `device` has no CUDA graphs; None if it has."""
        return None if device.type == "cuda" else f"this is a {device.type}"

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run the kernels in this block on the stream that captures, as warming up requires."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    @contextmanager
    def noting_waits(self) -> Iterator[list[str]]:
        """Collect the lines in this block that make Python wait for the device, which a capture does not allow."""
        lines: list[str] = []

        def note(message: Warning | str, *rest: Any) -> None:
            if WAIT in str(message):
                lines.append(calling_line())
            else:
                show(message, *rest)

        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            warnings.filterwarnings("always", message=WAIT)
            show: Callable[..., None] = warnings.showwarning
            warnings.showwarning = note  # type: ignore[assignment]  # it hands on what it does not look at
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lines
            finally:
                torch.cuda.set_sync_debug_mode(before)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Record the kernels in this block instead of running them; if that fails, everything is as it was before."""
        before = self.generator.clone_state()
        try:
            # The outer stream is for a capture that ends in an error, after which its own would stay the current one;
            # other threads, such as one that pins batches, may go on meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self.graph, self._pool, self.stream, capture_error_mode="thread_local"),
            ):
                yield
        except BaseException:
            self.generator.graphsafe_set_state(before)  # its own believes that a capture goes on
            self._abandon()
            raise

    def replay(self) -> None:
        """Run what was recorded, on the same tensors."""
        self.graph.replay()

    def release(self) -> None:
        """Give the graph's memory back, once the device has done what was started."""
        torch.cuda.synchronize()
        self.graph.reset()
        torch.cuda.empty_cache()

    def _abandon(self) -> None:
        """End a capture that has failed.

        Up to PyTorch 2.12 the allocator would believe that it goes on, and refuse the next `torch.cuda.empty_cache()`;
        later versions have ended it by themselves.
        """
        self._failed.append(self.graph)
        self.graph.reset()
        with suppress(RuntimeError):  # "not currently recording"
            torch._C._cuda_endAllocateToPool(self.device, self._pool)
            torch._C._cuda_releasePool(self.device, self._pool)


def calling_line() -> str:
    """Return the line, as file:line, by which the user's code has called what is going on; else the innermost one."""
    innermost = ""
    for frame, line in traceback.walk_stack(sys._getframe(2)):
        module, where = str(frame.f_globals.get("__name__")), f"{Path(frame.f_code.co_filename).name}:{line}"
        if module == "litlab.engine.optimization":
            break
        if not module.startswith(("torch.", "lightning.", "warnings", "litlab.")):
            return where
        if not module.startswith(("torch._dynamo", "torch.utils", "warnings", "litlab.")):  # wrappers
            innermost = innermost or where
    return innermost
