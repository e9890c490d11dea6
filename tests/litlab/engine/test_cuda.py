"""The graph itself: on a CPU by its calls of torch.cuda, on a GPU for what they do."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from litlab.engine.graphs import cuda
from litlab.engine.graphs.cuda import WAIT, CudaGraph


class Allocator:
    """What the caching allocator of PyTorch 2.11 remembers of captures; `mended` as from 2.13 on."""

    def __init__(self, mended):
        self.mended, self.underway, self.pools, self.mode = mended, set(), {}, 0
        self.streams = ["main"]

    def empty_cache(self):
        assert not self.underway, "captures_underway.empty() INTERNAL ASSERT FAILED"

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.empty_cache()
        self.streams.append(stream)
        self.underway.add(pool)
        self.pools[pool] = 1
        try:
            yield
        except BaseException:
            if self.mended:
                self.underway.discard(pool)
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 (as there)
        self.underway.discard(pool)
        graph.pool = pool
        self.streams.pop()

    def end(self, device, pool):
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.discard(pool)

    def release(self, device, pool):
        self.pools[pool] -= 1

    @contextmanager
    def stream(self, stream):
        depth = len(self.streams)
        try:
            yield
        finally:
            del self.streams[depth:]


class Generator:
    def __init__(self):
        self.state = "at rest"

    def clone_state(self):
        return "at rest"

    def graphsafe_set_state(self, state):
        self.state = state


@pytest.fixture(params=[False, True], ids=["up to 2.12", "from 2.13 on"])
def allocator(monkeypatch, request):
    """Stands in for torch.cuda."""
    kept = Allocator(request.param)

    class Graph:
        pool = None

        def reset(self):
            if self.pool:
                kept.release(0, self.pool)

    fakes = {
        "CUDAGraph": Graph,
        "Stream": object,
        "current_stream": lambda: "main",
        "current_device": lambda: 0,
        "default_generators": [Generator()],
        "graph_pool_handle": lambda: (0, 1),
        "graph": kept.graph,
        "stream": kept.stream,
        "empty_cache": kept.empty_cache,
        "synchronize": lambda: None,
        "get_sync_debug_mode": lambda: kept.mode,
        "set_sync_debug_mode": lambda mode: setattr(kept, "mode", mode),
    }
    monkeypatch.setattr(cuda.torch, "cuda", SimpleNamespace(**fakes))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", kept.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", kept.release, raising=False)
    monkeypatch.setattr(CudaGraph, "_failed", [])
    monkeypatch.setattr(CudaGraph, "_streams", {})
    return kept


def test_a_capture_that_fails_leaves_the_allocator_as_it_was(allocator):
    graph = CudaGraph()

    def wait():
        graph.generator.state = "capturing"
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="previous error"), graph.capturing():
        wait()
    allocator.empty_cache()
    assert allocator.streams == ["main"]
    assert graph.generator.state == "at rest"
    assert CudaGraph._failed == [graph.graph]
    assert allocator.mended or allocator.pools == {(0, 1): 0}


def test_a_graph_that_has_done_its_work_gives_its_pool_back(allocator):
    graph = CudaGraph()
    with graph.capturing():
        pass
    graph.release()
    assert allocator.pools == {(0, 1): 0}
    assert CudaGraph._failed == []


def test_all_graphs_of_a_device_are_captured_on_one_stream(allocator, monkeypatch):
    graph = CudaGraph()
    assert CudaGraph().stream is graph.stream
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "default_generators", [Generator(), Generator()])
    assert CudaGraph().stream is not graph.stream


def test_what_waits_for_the_device_is_noted_and_other_warnings_are_shown(allocator):
    graph = CudaGraph()
    with warnings.catch_warnings(record=True) as shown, graph.noting_waits() as lines:
        warnings.filterwarnings("default", message="Something else")
        assert allocator.mode == "warn"
        for message in (WAIT, WAIT, "Something else"):
            warnings.warn(message, stacklevel=1)
    assert [line.partition(":")[0] for line in lines] == ["test_cuda.py", "test_cuda.py"]
    assert [str(warning.message) for warning in shown] == ["Something else"]
    assert allocator.mode == 0


@pytest.mark.gpu
def test_after_a_capture_that_fails_the_gpu_goes_on():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        graph, values = CudaGraph(), torch.rand(1000, device="cuda")
        with graph.beside():
            (values * 2).sum()
        with pytest.raises(RuntimeError), graph.capturing():
            torch.rand(1000, device="cuda").sum().item()
        torch.cuda.empty_cache()
        assert torch.rand(3, device="cuda").tolist() != torch.rand(3, device="cuda").tolist()
    del values
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before <= 32 * 2**20  # cuBLAS's workspace and the like
    graph, result = CudaGraph(), torch.zeros(4, device="cuda")
    with graph.capturing():
        result.add_(torch.rand(4, device="cuda"))
    assert result.tolist() == [0.0] * 4
    torch.manual_seed(1)
    graph.replay()
    torch.manual_seed(1)
    assert result.tolist() == torch.rand(4, device="cuda").tolist()


@pytest.mark.gpu
def test_on_a_gpu_the_line_that_waits_is_named():
    graph, values = CudaGraph(), torch.rand(1000, device="cuda")
    values.sum().item()
    with graph.noting_waits() as lines:
        values.mul_(2)
        values.sum().item()
    assert [line.partition(":")[0] for line in lines] == ["test_cuda.py"]
    with graph.noting_waits() as lines:
        torch.zeros((), device="cuda").fill_(3.0)
    assert lines == []


@pytest.mark.gpu
def test_another_graph_takes_no_memory_of_cublas():
    values, reserved = torch.ones(64, 64, device="cuda"), []
    for _ in range(4):
        graph = CudaGraph()
        with graph.beside():
            values @ values
        with graph.capturing():
            values @ values
        graph.release()
        reserved.append(torch.cuda.memory_reserved())
    assert len(set(reserved)) == 1


@pytest.mark.gpu
def test_memory_returns_when_a_graph_is_released():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    graph, values = CudaGraph(), torch.ones(2**20, device="cuda")
    with graph.beside():
        values.sum()
    with graph.capturing():
        parts = [values * index for index in range(64)]  # 256 MiB
        values.copy_(torch.stack(parts).sum(0))
    del parts
    graph.replay()
    assert torch.cuda.memory_reserved() - before > 200 * 2**20
    graph.release()
    assert torch.cuda.memory_reserved() - before <= 32 * 2**20


def test_graphs_are_for_cuda():
    assert CudaGraph.obstacle(torch.device("cuda")) is None
    assert CudaGraph.obstacle(torch.device("cpu")) == "this is a cpu"
    assert CudaGraph.obstacle(torch.device("mps")) == "this is a mps"
